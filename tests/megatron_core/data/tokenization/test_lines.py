"""Batches of a shard against reading it document by document."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_core.data.documents import Document, read_shard, write_shard
from megatron_core.data.tokenization import lines
from megatron_core.data.tokenization.lines import read_batches
from megatron_core.errors import CorpusError
from tests.tokenizers import HARD

DOCUMENTS = [
    Document("notes", row, text, {"text": "not this", "row": 7, "source": "no", "n": [1, {}]})
    for row, text in enumerate([*HARD, "x" * 3000, '"quoted" \\ back\\n', "é" * 100])
]


@pytest.mark.parametrize("chunk", [1, 100, 1 << 20])
def test_batches_hold_what_the_shard_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(lines, "_CHUNK", chunk)
    write_shard(tmp_path / "0.jsonl", DOCUMENTS)
    found = [
        (source, int(row), text)
        for batch in read_batches(tmp_path / "0.jsonl")
        for source, row, text in zip(batch.sources, batch.rows, batch.texts, strict=True)
    ]
    assert found == [(d.source, d.row, d.text) for d in read_shard(tmp_path / "0.jsonl")]


def test_an_empty_shard_has_none(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.jsonl", [])
    assert list(read_batches(tmp_path / "0.jsonl")) == []


@pytest.mark.parametrize(
    "line",
    [b"{torn\n", b"[]\n", b'{"row": 1}\n', b'{"row": "1", "source": "s", "text": ""}\n', b"\xff\n",
     b'{"row": 1, "source": "s", "text": "\xff"}\n', b'{"row": 1.5, "source": "s", "text": ""}\n'],
)  # fmt: skip
def test_names_file_and_line(tmp_path: Path, line: bytes) -> None:
    write_shard(tmp_path / "0.jsonl", DOCUMENTS)
    with (tmp_path / "0.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(CorpusError, match=rf"0\.jsonl:{len(DOCUMENTS) + 1}: "):
        list(read_batches(tmp_path / "0.jsonl"))


def test_a_shard_that_vanished_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"0\.jsonl cannot be read: No such file"):
        list(read_batches(tmp_path / "0.jsonl"))
