"""Documents survive their shards; what is no document is refused by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.data import documents
from megatron_core.data.documents import (
    Document,
    ShardWriter,
    list_shards,
    read_shard,
    read_shards,
    write_shard,
)
from megatron_core.errors import CorpusError

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))


@given(UNICODE, st.dictionaries(UNICODE, UNICODE | st.integers(0, 2**53)))
def test_a_line_is_the_document_in_json(text: str, metadata: dict[str, object]) -> None:
    line = Document("notes", 3, text, metadata).to_line()
    assert line.count(b"\n") == 1
    value = json.loads(line)  # the standard library's reader, not the writer's
    assert value == {
        "id": "notes/3", "metadata": metadata, "row": 3, "source": "notes", "text": text
    }  # fmt: skip
    assert list(value) == sorted(value)
    assert Document.from_line(line) == Document("notes", 3, text, metadata)


@pytest.mark.parametrize("buffer", [1, 1 << 25])
def test_documents_are_dealt_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: int
) -> None:
    monkeypatch.setattr(documents, "_BUFFER", buffer)
    with ShardWriter(tmp_path / "out", 3) as writer:
        for row in range(8):
            writer.write(Document("a", row, str(row)))
    rows = [
        [document.row for document in read_shard(path)] for path in list_shards(tmp_path / "out")
    ]
    assert rows == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert [path.name for path in list_shards(tmp_path / "out")] == [
        "00000.jsonl", "00001.jsonl", "00002.jsonl"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no valid JSON"),
        ("[]", "no JSON object"),
        ('{"id": "a/1", "source": "a", "row": 1, "metadata": {}}', "`text` is missing"),
        ('{"id": "a/1", "source": "a", "row": "1", "metadata": {}, "text": ""}', "no int"),
        ('{"id": "a/2", "source": "a", "row": 1, "metadata": {}, "text": ""}', "not 'a/1'"),
        (
            '{"id": "a/1", "source": "a", "row": 1, "metadata": {}, "text": "\udcff"}',
            "no valid JSON",
        ),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    shard = tmp_path / "00000.jsonl"
    good = Document("a", 0, "text").to_line()
    shard.write_bytes(good + line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(CorpusError, match=rf"00000\.jsonl:2: .*{reason}"):
        list(read_shards(tmp_path))


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no shards"):
        list(read_shards(tmp_path))
    write_shard(tmp_path / "00000.jsonl", [])
    with pytest.raises(CorpusError, match="no documents"):
        list(read_shards(tmp_path))
