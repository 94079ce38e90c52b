"""Sources into shards: numbering, limits, and what is set aside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from megatron_core.config import DecontaminateConfig, IngestConfig
from megatron_core.data import ingestion
from megatron_core.data.documents import read_shard, read_shards
from megatron_core.data.ingestion import SourceCounts, ingest_sources, is_chosen
from megatron_core.data.sources import Record
from megatron_core.errors import CorpusError
from tests.tasks import local_tasks


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "a0"}\nbroken\n{"text": "a2"}\n{"text": "a3"}\n')
    Path("b.txt").write_text("b0\n\nb1")
    Path("out").mkdir()


def config(**values: Any) -> IngestConfig:
    sources = {
        "second": {"kind": "jsonl", "path": str(Path("a.jsonl").resolve())},
        "first": {"kind": "text", "path": "b.txt", "separator": "\n\n"},
    }
    return IngestConfig.model_validate({"sources": sources, "max_broken": 1} | values)


def only(**values: Any) -> dict[str, Any]:
    return {"sources": {"notes": {"kind": "jsonl", "path": "a.jsonl"} | values}}


def ingest(**values: Any) -> dict[str, SourceCounts]:
    return ingest_sources(config(**values), Path("out"), local_tasks())


def texts() -> dict[str, str]:
    return {document.id: document.text for document in read_shards(Path("out/documents"))}


def broken() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("out/broken.jsonl").read_text().splitlines()]


def test_rows_ids_and_shards() -> None:
    counts = ingest(shards=2)
    shards = [
        [(document.id, document.text) for document in read_shard(path)]
        for path in sorted(Path("out/documents").iterdir())
    ]
    # Recipe order, dealt in turn; a broken record keeps its row number.
    assert shards == [
        [("second/0", "a0"), ("second/3", "a3"), ("first/1", "b1")],
        [("second/2", "a2"), ("first/0", "b0")],
    ]
    assert (counts["second"].documents, counts["second"].broken) == (3, 1)
    assert (counts["first"].documents, counts["first"].characters) == (2, 4)
    (line,) = broken()
    assert line.pop("reason").startswith("no valid JSON")
    # The file's name alone: where it lies on this machine is no part of the result.
    assert line == {"file": "a.jsonl", "line": 2, "row": 1, "source": "second"}


def test_documents_say_where_they_come_from() -> None:
    ingest()
    origins = {document.id: document.metadata for document in read_shards(Path("out/documents"))}
    assert origins["second/3"] == {"origin": {"file": "a.jsonl", "line": 4}}
    assert origins["first/1"] == {"origin": {"file": "b.txt", "line": 3}}
    assert str(Path.cwd()).encode() not in b"".join(
        path.read_bytes() for path in Path("out").rglob("*.jsonl")
    )


def test_max_documents_is_per_source() -> None:
    counts = ingest(max_documents=1)
    assert {name: count.documents for name, count in counts.items()} == {"second": 1, "first": 1}
    assert counts["second"].broken == 0


def test_too_many_broken_records_are_named() -> None:
    with pytest.raises(
        CorpusError,
        match=r"^1 records.*max_broken = 0:\n  second: a\.jsonl:2: no valid JSON.*\n"
        r"mend them; or raise ingest\.max_broken",
    ):
        ingest(max_broken=0)
    Path("a.jsonl").write_text("broken\n" * 100_000)
    with pytest.raises(CorpusError, match=r"a\.jsonl:10: .*\n.*and 1 more"):
        ingest()


def test_a_share_of_broken_records() -> None:
    Path("a.jsonl").write_text('{"text": "x"}\n' * 88 + "broken\n" * 10)
    counts = ingest(max_broken=0, max_broken_share=0.1)  # 10 of 100
    assert counts["second"].broken == len(broken()) == 10
    with pytest.raises(CorpusError, match=r"max_broken = 9 and max_broken_share = 0\.09 of 100"):
        ingest(max_broken=9, max_broken_share=0.09)


def test_a_source_without_documents_is_refused() -> None:
    Path("a.jsonl").write_text("\n\n")
    with pytest.raises(CorpusError, match=r"ingest\.sources\.second has no documents"):
        ingest()
    Path("a.jsonl").write_text('broken\n{"text": ""}\n')
    with pytest.raises(CorpusError, match=r"of its 2 records 1 are broken, 1 empty"):
        ingest()


def test_empty_texts_are_left_out_and_counted() -> None:
    Path("a.jsonl").write_text(
        '{"text": "a"}\n{"text": ""}\n{"text": " \\n\\u2003"}\n{"text": "\\u0000"}\n'
    )
    counts = ingest()["second"]
    assert (counts.documents, counts.empty, counts.records) == (2, 2, 4)
    assert texts() == {"second/0": "a", "second/3": "\0", "first/0": "b0", "first/1": "b1"}


def test_a_lone_surrogate_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [Record("fine"), Record("\ud800")]
    monkeypatch.setattr(ingestion, "open_source", lambda *_: records)
    counts = ingest(max_broken=2)
    assert (counts["first"].documents, counts["first"].broken) == (1, 1)
    assert "cannot be written as JSON" in broken()[0]["reason"]
    assert broken()[0]["file"] == "second/1"


def test_a_second_record_with_an_id_is_set_aside() -> None:
    ids = [1, "x", 2, "1", "x", 3]
    Path("a.jsonl").write_text("".join(json.dumps({"text": "t", "n": n}) + "\n" for n in ids))
    counts = ingest(**only(id="n"), max_broken=2)["notes"]
    assert (counts.documents, counts.broken) == (4, 2)
    assert [(line["row"], line["reason"]) for line in broken()] == [
        (3, "a second record with the id '1'"), (4, "a second record with the id 'x'"),
    ]  # fmt: skip


def test_ids_are_told_apart_by_the_hundred_thousand() -> None:
    ids = ingestion._Ids()
    assert all(ids.add(str(n)) for n in range(100_000))
    assert not any(ids.add(str(n)) for n in range(100_000))
    assert ids.add("another")


def test_a_share_is_part_of_every_larger_one() -> None:
    Path("a.jsonl").write_text("".join(f'{{"text": "{n}"}}\n' for n in range(2000)))
    kept = []
    for share in (0.1, 0.5, 1.0):
        counts = ingest(**only(share=share))["notes"]
        assert counts.documents + counts.left_out == 2000
        kept.append(set(texts()))
    assert kept[0] < kept[1] < kept[2]
    # Within five standard deviations of what was asked for.
    assert abs(len(kept[0]) - 200) < 5 * 14
    assert abs(len(kept[1]) - 1000) < 5 * 23
    assert kept[0] == {f"notes/{n}" for n in range(2000) if is_chosen(f"notes/{n}", 0.1)}


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"passes in pretrain\.sources"):
        config(**only(share=1.5))


def test_what_ingest_writes_itself_cannot_be_kept() -> None:
    with pytest.raises(ValidationError, match="must not hold `origin`"):
        config(**only(metadata=["origin"]))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("shards", [1, 3])
def test_memory_does_not_grow_with_the_corpus(shards: int) -> None:
    """60 MB of documents leave the peak where 1 MB left it, give or take the buffers."""
    line = json.dumps({"text": "word " * 400}) + "\n"
    code = (
        "import pathlib\n"
        "from megatron_core.config import IngestConfig\n"
        "from megatron_core.data.ingestion import ingest_sources\n"
        "from megatron_core.data.tasks import Tasks\n"
        "def peak(path):\n"
        "    source = {'kind': 'jsonl', 'path': path}\n"
        f"    config = {{'sources': {{'a': source}}, 'shards': {shards}}}\n"
        "    config = IngestConfig.model_validate(config)\n"
        "    ingest_sources(config, pathlib.Path('out'), Tasks(pathlib.Path('t')))\n"
        "    status = pathlib.Path('/proc/self/status').read_text()\n"
        "    return int(status.partition('VmHWM:')[2].split()[0])\n"
        "small = peak('small.jsonl')\n"
        "print(peak('large.jsonl') - small)\n"
    )
    Path("small.jsonl").write_text(line * 500)
    with Path("large.jsonl").open("w") as file:
        for _ in range(60):
            file.write(line * 500)
    grown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert int(grown) < 35_000  # kB


def test_evaluation_sets_have_no_share() -> None:
    source = {"kind": "jsonl", "path": "a.jsonl", "share": 0.5}
    with pytest.raises(ValidationError, match="`set` must have no `share`"):
        DecontaminateConfig.model_validate({"against": {"set": source}})
