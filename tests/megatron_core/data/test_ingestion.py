"""Sources into shards: numbering, limits, and what is set aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_core.config import IngestConfig
from megatron_core.data.documents import read_shard
from megatron_core.data.ingestion import ingest_sources
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


def test_rows_ids_and_shards() -> None:
    counts = ingest_sources(config(shards=2), Path("out"), local_tasks())
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
    (broken,) = map(json.loads, Path("out/broken.jsonl").read_text().splitlines())
    assert broken.pop("reason").startswith("no valid JSON")
    # The file's name alone: where it lies on this machine is no part of the result.
    assert broken == {"file": "a.jsonl", "line": 2, "row": 1, "source": "second"}


def test_max_documents_is_per_source() -> None:
    counts = ingest_sources(config(max_documents=1), Path("out"), local_tasks())
    assert {name: count.documents for name, count in counts.items()} == {"second": 1, "first": 1}
    assert counts["second"].broken == 0


def test_too_many_broken_records_are_named() -> None:
    with pytest.raises(CorpusError, match=r"max_broken = 0.*\n.*a\.jsonl:2: no valid JSON"):
        ingest_sources(config(max_broken=0), Path("out"), local_tasks())
    Path("a.jsonl").write_text("broken\n" * 100_000)
    with pytest.raises(CorpusError, match=r"a\.jsonl:10: .*\n.*and 1 more"):
        ingest_sources(config(), Path("out"), local_tasks())


def test_a_source_without_documents_is_refused() -> None:
    Path("a.jsonl").write_text("\n\n")
    with pytest.raises(CorpusError, match=r"ingest\.sources\.second has no documents"):
        ingest_sources(config(), Path("out"), local_tasks())


def test_a_lone_surrogate_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron_core.data import ingestion
    from megatron_core.data.sources import Record

    records = [Record("fine"), Record("\ud800")]
    monkeypatch.setattr(ingestion, "open_source", lambda *_: records)
    counts = ingest_sources(config(max_broken=2), Path("out"), local_tasks())
    assert (counts["first"].documents, counts["first"].broken) == (1, 1)
    assert "no valid Unicode" in Path("out/broken.jsonl").read_text()
