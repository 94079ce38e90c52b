"""The split and the overlap against a count of plain word windows."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_core.config import DecontaminateConfig
from megatron_core.config.corpus.sources import Jsonl, Parquet, PlainText
from megatron_core.data import runs
from megatron_core.data.decontamination import decontaminate_documents, is_heldout
from megatron_core.data.documents import Document, read_shards, write_shard
from megatron_core.errors import CorpusError
from tests.tasks import ShuffledTasks, local_tasks


def sentences(count: int, seed: int = 0) -> list[str]:
    random_ = random.Random(seed)
    words = [f"w{n}" for n in range(400)]
    return [" ".join(random_.choices(words, k=random_.randint(2, 60))) for _ in range(count)]


def windows(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))]


def write(folder: Path, texts: list[str], shards: int = 2) -> list[Document]:
    documents = [Document("a", row, text) for row, text in enumerate(texts)]
    for shard in range(shards):
        write_shard(folder / f"{shard:05d}.jsonl", documents[shard::shards])
    return documents


def test_training_stays_clear_of_the_heldout(tmp_path: Path) -> None:
    config = DecontaminateConfig(heldout=0.3, ngram=4, max_overlap=0.25, max_covered=1)
    texts = sentences(150)
    # Later texts quote earlier ones to every degree; some of those are held out.
    texts += [f"{text} {texts[n]}" for n, text in enumerate(sentences(100, seed=1))]
    texts += texts[:30]
    documents = write(tmp_path / "in", texts)
    counts = decontaminate_documents(tmp_path / "in", tmp_path / "out", config, local_tasks())
    heldout = {document.id for document in read_shards(tmp_path / "out/heldout")}
    train = {document.id for document in read_shards(tmp_path / "out/train")}
    lines = (tmp_path / "out/removed.jsonl").read_text().splitlines()
    removed = {line["id"]: line for line in map(json.loads, lines)}
    assert heldout | train | set(removed) == {document.id for document in documents}
    assert len(heldout) + len(train) + len(removed) == len(documents)
    seen = {w for d in documents if d.id in heldout for w in windows(d.text, 4)}
    for document in documents:
        if document.id in heldout:
            continue
        found = windows(document.text, 4)
        share = sum(w in seen for w in found) / len(found)
        assert (document.id in removed) == (share > 0.25)
        if document.id in removed:
            line = removed[document.id]
            assert line["overlap"] == pytest.approx(share) and line["against"] == "heldout"
            assert tuple(line["ngram"].split()) in seen & set(found)
    assert len(removed) > 20
    assert (counts.train, counts.heldout) == (len(train), len(heldout))
    assert counts.removed == {"heldout": len(removed)}


def test_further_sets_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = sentences(40)
    documents = write(tmp_path / "in", texts)
    config = DecontaminateConfig(
        heldout=0.1, against={"exam": Jsonl(kind="jsonl", path="exam.jsonl", text="q")}
    )
    copied = next(d for d in documents if not is_heldout(d, config) and len(d.text) > 80)
    question = copied.text.upper().replace(" ", ",  ")  # case and punctuation hide nothing
    Path("exam.jsonl").write_text(json.dumps({"q": question}) + "\n")
    counts = decontaminate_documents(tmp_path / "in", tmp_path / "out", config, local_tasks())
    (line,) = map(json.loads, (tmp_path / "out/removed.jsonl").read_text().splitlines())
    assert (line["id"], line["against"], line["overlap"]) == (copied.id, "exam", 1.0)
    assert counts.removed == {"exam": 1}
    Path("exam.jsonl").write_text("{}\n")
    with pytest.raises(CorpusError, match=r"against\.exam: exam\.jsonl:1: no key `q`"):
        decontaminate_documents(tmp_path / "in", tmp_path / "again", config, local_tasks())
    Path("exam.jsonl").write_text("")
    with pytest.raises(CorpusError, match=r"against\.exam has no records"):
        decontaminate_documents(tmp_path / "in", tmp_path / "again", config, local_tasks())


def test_the_choice_is_the_id_and_the_seed() -> None:
    ids = [Document("a", row, "") for row in range(20_000)]
    chosen = {seed: DecontaminateConfig(heldout=0.1, seed=seed) for seed in (1, 2)}
    first, second = ({i.id for i in ids if is_heldout(i, c)} for c in chosen.values())
    # Binomial: five standard deviations are 212; two independent choices share a tenth.
    assert abs(len(first) - 2000) < 212 and abs(len(second) - 2000) < 212
    assert abs(len(first & second) - 200) < 70
    more = {i.id for i in ids if is_heldout(i, DecontaminateConfig(heldout=0.2))}
    assert first < more


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "in", ["one text", "another text"])
    with pytest.raises(CorpusError, match=r"heldout = 1e-09.*raise it"):
        decontaminate_documents(
            tmp_path / "in", tmp_path / "a", DecontaminateConfig(heldout=1e-9), local_tasks()
        )
    with pytest.raises(CorpusError, match="left for training"):
        decontaminate_documents(
            tmp_path / "in", tmp_path / "b", DecontaminateConfig(heldout=1 - 1e-9), local_tasks()
        )


def naive_overlap(
    text: str, sets: dict[str, dict[str, str]], n: int
) -> tuple[dict[str, float], dict[str, float]]:
    """The share of a text's windows in each set, and of each record's windows in the text."""
    found = windows(text, n)
    shares = {}
    covered = {}
    for name, records in sets.items():
        known = {record: set(windows(other, n)) for record, other in records.items()}
        seen = set().union(*known.values())
        shares[name] = sum(w in seen for w in found) / len(found)
        covered |= {record: len(own & set(found)) / len(own) for record, own in known.items()}
    return shares, covered


@pytest.mark.parametrize("shards", [1, 3])
def test_removed_say_what_was_found_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    """Long documents that quote exams whole or in part, in two files of other kinds."""
    monkeypatch.chdir(tmp_path)
    random_ = random.Random(3)
    exams = sentences(60, seed=8)
    Path("exam.txt").write_text("\n\n".join(exams[:30]))
    pq.write_table(pa.table({"text": exams[30:]}), "quiz.parquet")
    texts = sentences(120, seed=9)
    for i in range(80):
        quoted = random_.choice(exams).split()
        quoted = quoted[: random_.randint(1, len(quoted))]
        texts[i] = " ".join([texts[i], *quoted, texts[i + 1], texts[i + 2]])
    for i in range(80, 85):
        texts[i] = " ".join([*[exams[i - 80]] * 3, texts[i]])  # said again, it counts again
    documents = write(tmp_path / "in", texts, shards)
    config = DecontaminateConfig(
        heldout=0.1, ngram=3, max_overlap=0.4, max_covered=0.5,
        against={
            "quiz": Parquet(kind="parquet", path="quiz.parquet"),
            "exam": PlainText(kind="text", path="exam.txt", separator="\n\n"),
        },
    )  # fmt: skip
    decontaminate_documents(tmp_path / "in", tmp_path / "out", config, local_tasks())
    lines = (tmp_path / "out/removed.jsonl").read_text().splitlines()
    removed = {line["id"]: line for line in map(json.loads, lines)}
    sets = {
        "heldout": {d.id: d.text for d in documents if is_heldout(d, config)},
        "exam": {f"exam/{row}": text for row, text in enumerate(exams[:30])},
        "quiz": {f"quiz/{row}": text for row, text in enumerate(exams[30:])},
    }
    of_records = {record: name for name, records in sets.items() for record in records}
    for document in documents:
        if is_heldout(document, config):
            continue
        shares, covered = naive_overlap(document.text, sets, 3)
        gone = max(shares.values()) > 0.4 or max(covered.values()) > 0.5
        assert (document.id in removed) == gone
        if gone:
            line = removed[document.id]
            assert line["overlap"] == pytest.approx(shares[line["against"]])
            assert line["covered"] == pytest.approx(covered[line["record"]])
            assert of_records[line["record"]] == line["against"]
            most = max(v for r, v in covered.items() if of_records[r] == line["against"])
            assert covered[line["record"]] == most
            ngram = tuple(line["ngram"].split())
            assert ngram in windows(document.text, 3)
            assert ngram in windows(sets[line["against"]][line["record"]], 3)
    assert {line["against"] for line in removed.values()} >= {"exam", "quiz"}
    assert min(line["overlap"] for line in removed.values()) < 0.3
    assert len(removed) < 100


def test_the_first_of_equal_texts_is_named(tmp_path: Path) -> None:
    """By source and row, whatever the shards."""
    text = " ".join(f"w{n}" for n in range(20))
    documents = [Document("ab"[row % 2], row, text) for row in range(60)]
    documents += [Document("c", row, other) for row, other in enumerate(sentences(20))]
    config = DecontaminateConfig(heldout=0.3)
    first = min((d.source, d.row) for d in documents if is_heldout(d, config))
    for name, order in (("a", documents), ("b", documents[::-1])):
        write_shard(tmp_path / name / "in/00000.jsonl", order[:25])
        write_shard(tmp_path / name / "in/00001.jsonl", order[25:])
        decontaminate_documents(
            tmp_path / name / "in",
            tmp_path / name / "out",
            config,
            ShuffledTasks(),
        )
        lines = (tmp_path / name / "out/removed.jsonl").read_text().splitlines()
        assert {json.loads(line)["record"] for line in lines} == {"{}/{}".format(*first)}


def test_a_phrase_of_many_texts_covers_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    phrase, long = "what is the best treatment for", " ".join(sentences(20))
    questions = [f"{phrase} q{n}" for n in range(80)]
    Path("exam.txt").write_text("\n".join(questions))
    write(tmp_path / "in", [f"{phrase} {long}", f"{questions[7]} {long}", *sentences(20, seed=4)])
    config = DecontaminateConfig(
        heldout=0.1, ngram=3, max_covered=0.7,
        against={"exam": PlainText(kind="text", path="exam.txt", separator="\n")},
    )  # fmt: skip
    decontaminate_documents(tmp_path / "in", tmp_path / "out", config, local_tasks())
    (line,) = map(json.loads, (tmp_path / "out/removed.jsonl").read_text().splitlines())
    assert (line["id"], line["record"], line["covered"]) == ("a/1", "exam/7", 1.0)
    assert line["ngram"] == "treatment for q7"


def test_a_patient_is_on_one_side(tmp_path: Path) -> None:
    documents = [
        Document("notes", row, text, {"patient": row % 40} if row % 5 else {})
        for row, text in enumerate(sentences(400))
    ]
    write_shard(tmp_path / "in/00000.jsonl", documents[:150])
    write_shard(tmp_path / "in/00001.jsonl", documents[150:])
    config = DecontaminateConfig(heldout=0.3, heldout_by="patient")
    decontaminate_documents(tmp_path / "in", tmp_path / "out", config, local_tasks())
    sides: dict[int, set[str]] = {}
    for side in ("train", "heldout"):
        for document in read_shards(tmp_path / "out" / side):
            if document.metadata:
                sides.setdefault(document.metadata["patient"], set()).add(side)
    assert len(sides) == 32 and all(len(found) == 1 for found in sides.values())
    assert 3 < sum(found == {"heldout"} for found in sides.values()) < 20
    unknown = config.model_copy(update={"heldout_by": "subject"})
    with pytest.raises(CorpusError, match="heldout_by = 'subject' in its metadata"):
        decontaminate_documents(tmp_path / "in", tmp_path / "b", unknown, local_tasks())


def test_neither_workers_nor_kills_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last run finds some tasks done and half a file of another."""
    monkeypatch.setattr(runs, "_BYTES", 1)
    texts = sentences(100)
    write(tmp_path / "in", texts + [f"{text} and more" for text in texts[:50]], shards=4)
    config = DecontaminateConfig(heldout=0.4, ngram=4)
    decontaminate_documents(tmp_path / "in", tmp_path / "a", config, ShuffledTasks())
    tasks = local_tasks()
    decontaminate_documents(tmp_path / "in", tmp_path / "b", config, tasks)
    for done in (tasks.folder / "train").glob("*2"):
        done.unlink()
    (tmp_path / "b/train/00002.jsonl").write_text("half a li")
    (tmp_path / "b/removed.jsonl").unlink()
    (tasks.folder / "removed/000000").unlink()
    decontaminate_documents(tmp_path / "in", tmp_path / "b", config, tasks)
    files = [p.relative_to(tmp_path / "a") for p in sorted((tmp_path / "a").rglob("*.jsonl"))]
    assert len(files) == 9
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_sets_have_names_of_their_own_and_are_whole() -> None:
    with pytest.raises(ValueError, match="the held-out documents have that name"):
        DecontaminateConfig(against={"heldout": Jsonl(kind="jsonl", path="x.jsonl")})
    with pytest.raises(ValueError, match="`exam` must have no `share`"):
        DecontaminateConfig(against={"exam": Jsonl(kind="jsonl", path="x.jsonl", share=0.5)})
