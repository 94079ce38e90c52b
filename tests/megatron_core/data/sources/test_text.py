"""Text files, whole or in pieces."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from megatron_core.config.corpus.sources import PlainText
from megatron_core.data.sources import Record, open_source


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(path: str, **config: Any) -> list[Any]:
    return [
        record.text if isinstance(record, Record) else record
        for record in open_source(PlainText(kind="text", path=path, **config))
    ]


def test_whole_or_in_pieces() -> None:
    Path("a.txt").write_bytes("\ufeffone\r\n\r\ntwo\n\n \n\nthree".encode())
    assert read("a.txt") == ["one\n\ntwo\n\n \n\nthree"]
    assert read("a.txt", separator="\n\n") == ["one", "two", "three"]
    pieces = open_source(PlainText(kind="text", path="a.txt", separator="\n\n"))
    assert [record.metadata["origin"]["line"] for record in pieces] == [1, 3, 7]  # type: ignore[union-attr]


def test_a_compressed_file_and_a_blank_one() -> None:
    Path("a.txt.gz").write_bytes(gzip.compress(b"packed"))
    Path("b.txt").write_bytes(b" \n")
    Path("c.md").write_bytes(b"")
    assert read(".") == ["packed"]


def test_what_is_no_utf8_is_broken_where_it_stands() -> None:
    Path("a.txt").write_bytes(b"good\n--\nline\ncaf\xe9\n--\nfine")
    Path("b.txt").write_bytes(b"cut \xf0\x9f\x98")
    good, broken, fine, cut = read(".", separator="--")
    assert (good, fine) == ("good\n", "\nfine")
    assert str(broken) == "a.txt:4: no valid UTF-8 (invalid continuation byte)"
    assert str(cut) == "b.txt:1: no valid UTF-8 (unexpected end of data)"


def test_long_files_and_pieces_are_set_aside() -> None:
    Path("a.txt").write_bytes(b"1234567890")
    (broken,) = read("a.txt", max_bytes=9)
    assert str(broken) == "a.txt:1: 10 bytes, more than max_bytes = 9"
    assert read("a.txt", max_bytes=10) == ["1234567890"]
