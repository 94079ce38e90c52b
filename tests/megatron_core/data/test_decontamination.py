"""The split and the overlap against a count of plain word windows."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from megatron_core.config import DecontaminateConfig
from megatron_core.config.corpus.sources import Jsonl
from megatron_core.data.decontamination import decontaminate_documents, is_heldout
from megatron_core.data.documents import Document, read_shards, write_shard
from megatron_core.errors import CorpusError
from tests.tasks import local_tasks


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
