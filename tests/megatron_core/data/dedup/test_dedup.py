"""Duplicates against the definition: all pairs, whole sets, no hashing."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from megatron_core.config import DedupConfig
from megatron_core.data import runs
from megatron_core.data.dedup import clusters, remove_duplicates, similarity
from megatron_core.data.dedup import corpus as parts
from megatron_core.data.documents import Document, read_shards, write_shard
from megatron_core.data.tasks import Tasks
from megatron_core.errors import CorpusError
from tests.tasks import ShuffledTasks, local_tasks


def corpus(seed: int = 0) -> list[Document]:
    """Texts of random words; some of them edited copies, some copies but for case and commas."""
    random_ = random.Random(seed)
    words = [f"w{n}" for n in range(500)]
    texts = [random_.choices(words, k=random_.randint(1, 80)) for _ in range(60)]
    for number in range(40):
        copy = list(texts[number])
        for _ in range(random_.randint(0, len(copy) // 12)):
            copy[random_.randrange(len(copy))] = random_.choice(words)
        texts.append(copy)
    joined = [" ".join(text) for text in texts]
    joined += [text.upper().replace(" ", ", ") for text in joined[:10]]
    random_.shuffle(joined)
    return [Document("ab"[row % 2], row, text) for row, text in enumerate(joined)]


def survivors_by_definition(documents: Sequence[Document], config: DedupConfig) -> set[str]:
    """Connected components of "true similarity at least min_jaccard", all pairs compared."""

    def plain(document: Document) -> list[str]:
        return document.text.lower().replace(",", "").split()

    def grams(document: Document) -> set[tuple[str, ...]]:
        found, n = plain(document), config.ngram
        return {tuple(found[i : i + n]) for i in range(max(1, len(found) - n + 1))}

    best = sorted(documents, key=lambda d: (-len(d.text), d.source, d.row))
    unique = list({tuple(plain(d)): d for d in reversed(best)}.values())[::-1]
    groups = [{d.id} for d in unique]
    sets = {d.id: grams(d) for d in unique}
    for one, other in combinations(sets, 2):
        if len(sets[one] & sets[other]) / len(sets[one] | sets[other]) >= config.min_jaccard:
            first, second = (next(g for g in groups if x in g) for x in (one, other))
            if first is not second:
                groups.remove(second)
                first |= second
    return {next(d.id for d in best if d.id in group) for group in groups}


def run(
    folder: Path,
    documents: Sequence[Document],
    config: DedupConfig,
    shards: int = 2,
    tasks: Tasks | None = None,
) -> tuple[list[Document], list[dict[str, object]]]:
    for shard in range(shards):
        write_shard(folder / f"in/{shard:05d}.jsonl", documents[shard::shards])
    counts = remove_duplicates(folder / "in", folder / "out", config, tasks or local_tasks())
    kept = list(read_shards(folder / "out/documents"))
    lines = (folder / "out/duplicates.jsonl").read_text().splitlines()
    removed = [json.loads(line) for line in lines]
    assert counts.documents == len(kept)
    assert counts.exact + counts.near == len(removed) == len(documents) - len(kept)
    return kept, removed


# One hash per bucket: every pair this alike is all but sure to be a candidate.
SURE = DedupConfig(ngram=3, buckets=64, hashes_per_bucket=1, min_jaccard=0.5)


@pytest.mark.parametrize("seed", range(3))
def test_survivors_are_those_of_the_definition(tmp_path: Path, seed: int) -> None:
    documents = corpus(seed)
    kept, removed = run(tmp_path, documents, SURE)
    assert {document.id for document in kept} == survivors_by_definition(documents, SURE)
    by_id = {document.id: document for document in documents}
    assert {line["kind"] for line in removed} == {"exact", "near"}
    for line in removed:
        assert by_id[str(line["id"])].text[:200] == line["text"]
        assert by_id[str(line["kept"])].text[:200] == line["kept_text"]
        assert len(by_id[str(line["id"])].text) <= len(by_id[str(line["kept"])].text)


def test_neither_order_nor_shards_nor_workers_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_BYTES", 1)  # a task for each shard
    documents = corpus()
    kept, removed = run(tmp_path / "a", documents, SURE)
    shuffled = random.Random(1).sample(documents, len(documents))
    again, removed_again = run(tmp_path / "b", shuffled, SURE, shards=5, tasks=ShuffledTasks())
    assert sorted(kept, key=lambda d: d.id) == sorted(again, key=lambda d: d.id)
    assert removed == removed_again


def test_candidates_below_the_true_similarity_stay(tmp_path: Path) -> None:
    words = " ".join(f"w{n}" for n in range(40))
    documents = [Document("a", 0, f"{words} x y z"), Document("a", 1, f"{words} p q r")]
    trusting = DedupConfig(ngram=1, buckets=64, hashes_per_bucket=1, min_jaccard=0)
    strict = trusting.model_copy(update={"min_jaccard": 0.9})  # they share 40 of 46 words
    assert len(run(tmp_path / "a", documents, strict)[0]) == 2
    _, (line,) = run(tmp_path / "b", documents, trusting)
    assert line["similarity"] == pytest.approx(40 / 46)


def test_similarity_is_that_of_sets(tmp_path: Path) -> None:
    """A refrain counts once."""
    refrain, more = " ".join(f"w{n}" for n in range(30)), "and a few words more"
    documents = [Document("a", 0, f"{refrain} {refrain} {refrain}"), Document("a", 1, refrain)]
    documents.append(Document("a", 2, f"{refrain} {refrain} {more}"))
    _, removed = run(tmp_path, documents, SURE)
    sets = []
    for document in documents:
        found = document.text.split()
        sets.append({tuple(found[i : i + 3]) for i in range(len(found) - 2)})
    expected = {f"a/{n}": len(sets[0] & sets[n]) / len(sets[0] | sets[n]) for n in (1, 2)}
    assert {line["id"]: line["similarity"] for line in removed} == expected
    for nudge, left in ((0.0, 1), (1e-9, 2)):  # the least similarity is enough, no less is
        config = SURE.model_copy(update={"min_jaccard": expected["a/2"] + nudge})
        kept, _ = run(tmp_path / str(left), [documents[0], documents[2]], config)
        assert len(kept) == left


def test_short_and_wordless_texts(tmp_path: Path) -> None:
    texts = ["one two", "One, two!", "two one", "...", "!!!", "…", "one two three"]
    documents = [Document("a", row, text) for row, text in enumerate(texts)]
    kept, _ = run(tmp_path, documents, DedupConfig())
    assert {document.row for document in kept} == {1, 2, 3, 4, 5, 6}


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "00000.jsonl", [])
    with pytest.raises(CorpusError, match="no documents"):
        remove_duplicates(tmp_path, tmp_path / "out", SURE, local_tasks())


def test_the_best_scored_stays(tmp_path: Path) -> None:
    """Ties go to the longer, then to the first by source and row."""
    text = " ".join(f"w{n}" for n in range(60))
    documents = [
        Document("b", 0, f"{text}!", {"score": 2}),
        Document("a", 1, f"{text}!", {"score": 2}),
        Document("a", 0, f"{text} and more", {"score": 2.5}),
        Document("c", 0, f"{text} and a bit more", {"score": -1}),
        Document("a", 2, text, {"score": 2}),
    ]
    config = DedupConfig(survivor="score", score="score")
    (kept,), removed = run(tmp_path / "a", documents, config)
    assert kept.id == "a/0"
    assert [(line["id"], line["kind"]) for line in removed] == [
        ("a/1", "near"), ("b/0", "near"), ("a/2", "near"), ("c/0", "near")
    ]  # fmt: skip
    (kept,), removed = run(tmp_path / "b", [*documents[:2], documents[4]], config)
    assert kept.id == "a/1"
    assert [(line["id"], line["kind"]) for line in removed] == [("b/0", "exact"), ("a/2", "exact")]
    for missing in ({}, {"score": "high"}, {"score": True}):
        documents[3] = Document("c", 0, text, missing)
        with pytest.raises(CorpusError, match="document c/0 has no number under dedup"):
            run(tmp_path / "c", documents, config)
    with pytest.raises(ValueError, match="belong together"):
        DedupConfig(survivor="score")


def test_clusters_are_there_to_look_at(tmp_path: Path) -> None:
    documents = corpus()
    _, removed = run(tmp_path / "a", documents, SURE)
    by_kept: dict[object, list[dict[str, object]]] = {}
    for line in removed:
        by_kept.setdefault(line["kept"], []).append(line)
    *shown, rest = map(json.loads, (tmp_path / "a/out/clusters.jsonl").read_text().splitlines())
    assert rest == {"not_shown": []}
    assert {line["kept"]["id"] for line in shown} == set(by_kept)
    sizes = [line["documents"] for line in shown]
    assert sizes == sorted(sizes, reverse=True)
    for line in shown:
        wanted = by_kept[line["kept"]["id"]]
        assert line["documents"] == len(wanted) + 1 and line["not_listed"] == 0
        assert line["kept"]["text"] == wanted[0]["kept_text"]
        for member, other in zip(line["members"], wanted, strict=True):
            assert member == {key: other[key] for key in ("id", "kind", "similarity", "text")}
    run(tmp_path / "b", documents, SURE.model_copy(update={"shown_clusters": 2}))
    *fewer, rest = map(json.loads, (tmp_path / "b/out/clusters.jsonl").read_text().splitlines())
    assert fewer == shown[:2]
    counts = Counter(sizes[2:])
    assert rest["not_shown"] == [
        {"clusters": counts[size], "documents": size} for size in sorted(counts)
    ]


def test_a_large_cluster_is_listed_in_part(tmp_path: Path) -> None:
    documents = [Document("a", row, "the very same words" + "." * (row == 7)) for row in range(130)]
    run(tmp_path, documents, DedupConfig())
    line, _ = map(json.loads, (tmp_path / "out/clusters.jsonl").read_text().splitlines())
    assert (line["documents"], len(line["members"]), line["not_listed"]) == (130, 100, 29)
    assert line["kept"]["id"] == "a/7"


def test_every_kept_document_is_in_the_corpus(tmp_path: Path) -> None:
    """A copy of a document that is itself near another goes with it to the one that is kept."""
    text = " ".join(f"w{n}" for n in range(60))
    documents = [Document("a", 0, text), Document("a", 1, text), Document("a", 2, f"{text} more")]
    (kept,), removed = run(tmp_path, documents, DedupConfig())
    assert kept.id == "a/2"
    assert [(line["id"], line["kept"], line["kind"]) for line in removed] == [
        ("a/0", "a/2", "near"), ("a/1", "a/2", "near")
    ]  # fmt: skip
    assert [line["similarity"] for line in removed] == pytest.approx([56 / 57, 56 / 57])


@pytest.mark.parametrize("seed", range(2))
def test_pieces_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Partitions, parts and batches of a few documents each, beside one of everything."""
    documents = corpus(seed)
    whole = run(tmp_path / "a", documents, SURE)
    for module, name, value in (
        (parts, "_PARTITION", 20), (clusters, "_DOCUMENTS", 7),
        (similarity, "SHINGLES", 200), (runs, "_BYTES", 1),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    assert run(tmp_path / "b", documents, SURE, shards=2) == whole
    names = sorted(path.name for path in (tmp_path / "a/out").glob("*.jsonl"))
    for name in names:
        assert (tmp_path / "a/out" / name).read_bytes() == (tmp_path / "b/out" / name).read_bytes()


def test_a_crowd_is_compared_with_its_first(tmp_path: Path) -> None:
    """All agree in the one bucket, and all are alike: one comparison each is enough. None is
    like another: none goes, however few are compared."""
    same = [Document("a", row, f"one {row} two three four five six seven") for row in range(40)]
    config = DedupConfig(ngram=1, buckets=8, hashes_per_bucket=1, min_jaccard=0.6, max_compared=1)
    kept, _ = run(tmp_path / "a", same, config)
    assert len(kept) == 1
    kept, _ = run(tmp_path / "b", same, config.model_copy(update={"min_jaccard": 0.9}))
    assert len(kept) == 40


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever pass it is killed in, and whatever half a file it left there."""
    monkeypatch.setattr(runs, "_BYTES", 1)
    documents = corpus()
    for shard in range(3):
        write_shard(tmp_path / f"in/{shard:05d}.jsonl", documents[shard::3])
    expected = remove_duplicates(tmp_path / "in", tmp_path / "a", SURE, local_tasks())
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.jsonl")]
    passes = [
        "signatures", "candidates", "texts", "similarities", "clusters", "survivors", "documents",
        "lists",
    ]  # fmt: skip
    for last, killed in enumerate(passes):
        tasks, output = local_tasks(), tmp_path / killed
        remove_duplicates(tmp_path / "in", output, SURE, tasks)
        for name in passes[last:]:
            done = sorted((tasks.folder / name).iterdir())
            for record in done[len(done) // 2 if name == killed else 0 :]:
                record.unlink()
            arrays = tasks.folder / "arrays" / {"similarities": "alike"}.get(name, name)
            for array in arrays.rglob("*.*") if name != killed else ():
                array.write_bytes(array.read_bytes()[: array.stat().st_size // 2])
        for name in ("documents", "lists"):  # whose files are the artifact's
            for record in (tasks.folder / name).iterdir():
                record.unlink()
        for file in files:
            (output / file).write_bytes((output / file).read_bytes()[:100])
        assert remove_duplicates(tmp_path / "in", output, SURE, tasks) == expected
        for file in files:
            assert (output / file).read_bytes() == (tmp_path / "a" / file).read_bytes()


def test_a_shard_that_vanishes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "00007.jsonl"
    shards = parts.Corpus(tmp_path, (path,), (parts.ShardSize(3, 9, ("a",)),))
    with pytest.raises(CorpusError, match=r"00007\.jsonl cannot be read: No such file"):
        list(shards.lines(0))
    path.write_bytes(b"one\ntwo\n")
    assert list(shards.lines(0)) == [(0, b"one\n"), (1, b"two\n")]
