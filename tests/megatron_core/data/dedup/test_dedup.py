"""Duplicates against the definition: all pairs, whole sets, no hashing."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from megatron_core.config import DedupConfig
from megatron_core.data.dedup import remove_duplicates
from megatron_core.data.documents import Document, read_shards, write_shard
from megatron_core.errors import CorpusError
from tests.tasks import local_tasks


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
    workers: int = 1,
) -> tuple[list[Document], list[dict[str, object]]]:
    for shard in range(shards):
        write_shard(folder / f"in/{shard:05d}.jsonl", documents[shard::shards])
    counts = remove_duplicates(folder / "in", folder / "out", config, local_tasks(workers))
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


def test_neither_order_nor_shards_nor_workers_matter(tmp_path: Path) -> None:
    documents = corpus()
    kept, removed = run(tmp_path / "a", documents, SURE)
    shuffled = random.Random(1).sample(documents, len(documents))
    again, removed_again = run(tmp_path / "b", shuffled, SURE, shards=5, workers=2)
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


def test_short_and_wordless_texts(tmp_path: Path) -> None:
    texts = ["one two", "One, two!", "two one", "...", "!!!", "…", "one two three"]
    documents = [Document("a", row, text) for row, text in enumerate(texts)]
    kept, _ = run(tmp_path, documents, DedupConfig())
    assert {document.row for document in kept} == {1, 2, 3, 4, 5, 6}


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "00000.jsonl", [])
    with pytest.raises(CorpusError, match="no documents"):
        remove_duplicates(tmp_path, tmp_path / "out", SURE, local_tasks())
