"""Shards through curation: what stays, what is counted, and what workers do not change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_core.config import CurateConfig
from megatron_core.data.curation import curate_documents
from megatron_core.data.documents import Document, read_shard, write_shard
from megatron_core.errors import CorpusError
from tests.tasks import local_tasks

GOOD = "A text of plain words that is long enough to stay."


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_keep_their_names_and_workers_change_nothing(tmp_path: Path, workers: int) -> None:
    for shard in range(3):
        documents = [
            Document("a", row, "short" if row % 2 else f"{GOOD}  {row}", {"n": row})
            for row in range(shard, 12, 3)
        ]
        write_shard(tmp_path / f"in/{shard:05d}.jsonl", documents)
    write_shard(tmp_path / "in/00003.jsonl", [])
    counts = curate_documents(
        tmp_path / "in", tmp_path / "out", CurateConfig(), local_tasks(workers)
    )
    for shard in range(3):
        assert list(read_shard(tmp_path / f"out/documents/{shard:05d}.jsonl")) == [
            Document("a", row, f"{GOOD} {row}", {"n": row})
            for row in range(shard, 12, 3) if row % 2 == 0
        ]  # fmt: skip
    assert list(read_shard(tmp_path / "out/documents/00003.jsonl")) == []
    assert (counts.documents, counts.dropped) == (6, {"too_short": 6})
    assert json.loads((tmp_path / "out/drops.json").read_text()) == {
        "too_short": {
            "documents": 6,
            "samples": [{"id": f"a/{row}", "text": "short"} for row in (3, 9, 1)],
        }
    }


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "in/00000.jsonl", [Document("a", 0, "short")])
    with pytest.raises(CorpusError, match="too_short 1"):
        curate_documents(tmp_path / "in", tmp_path / "out", CurateConfig(), local_tasks())
