"""Sources of files: what is read, in which order, and what is set aside or refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from megatron_core.config.corpus.sources import Jsonl, Parquet, PlainText
from megatron_core.data.sources import Broken, Record, open_source
from megatron_core.errors import CorpusError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines(*texts: str, key: str = "text") -> bytes:
    return b"".join(json.dumps({key: text}).encode() + b"\n" for text in texts)


def read(kind: type[Any], **config: Any) -> list[Any]:
    name = {Jsonl: "jsonl", Parquet: "parquet", PlainText: "text"}[kind]
    return [
        record.text if isinstance(record, Record) else record
        for record in open_source(kind(kind=name, **config))
    ]


def test_json_lines_plain_and_compressed_in_the_order_of_names() -> None:
    Path("d/deep").mkdir(parents=True)
    Path("d/b.jsonl").write_bytes(lines("b1", "b2"))
    Path("d/a.jsonl.gz").write_bytes(gzip.compress(lines("a1")) + gzip.compress(lines("a2")))
    compress = zstandard.ZstdCompressor().compress
    Path("d/deep/c.json.zst").write_bytes(compress(lines("c1")) + compress(lines("c2")))
    Path("d/.hidden.jsonl").write_bytes(lines("no"))
    Path("d/notes.txt").write_bytes(b"no")
    assert read(Jsonl, path="d") == ["a1", "a2", "b1", "b2", "c1", "c2"]
    assert read(Jsonl, path="d/*.jsonl") == ["b1", "b2"]
    assert read(Jsonl, path="d/**/*.zst") == ["c1", "c2"]


def test_json_lines_other_key_blank_lines_and_byte_order_mark() -> None:
    Path("x.jsonl").write_bytes(
        b"\xef\xbb\xbf" + lines("é", key="body") + b"\r\n\n" + b'{"body":"2"}'
    )
    assert read(Jsonl, path="x.jsonl", text="body") == ["é", "2"]


def test_broken_json_lines_have_a_place_and_a_reason() -> None:
    Path("x.jsonl").write_bytes(
        lines("1") + b'{"text"\n[1]\n{"body": "2"}\n{"text": 3}\n{"text": "\xff"}\n' + lines("4")
    )
    first, *broken, last = read(Jsonl, path="x.jsonl")
    assert (first, last) == ("1", "4")
    assert all(isinstance(record, Broken) for record in broken)
    assert [str(record).split(": ")[0] for record in broken] == [
        f"x.jsonl:{n}" for n in range(2, 7)
    ]
    for record, reason in zip(
        broken,
        ["no valid JSON", "not an object", "the keys are: body", "is a int", "no valid JSON"],
        strict=True,
    ):
        assert reason in record.reason


@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_compressed_file_is_refused(suffix: str, damage: str) -> None:
    # Long enough that the compressed form has a middle to cut at.
    content = lines(*(f"line {n * 7919 % 1000}" for n in range(2000)))
    packed = gzip.compress(content) if suffix == "gz" else zstandard.compress(content)
    damaged = packed[: len(packed) // 2] if damage == "cut" else b"not compressed at all"
    Path(f"x.jsonl.{suffix}").write_bytes(damaged)
    with pytest.raises(CorpusError, match=rf"x\.jsonl\.{suffix} cannot be read"):
        read(Jsonl, path=f"x.jsonl.{suffix}")


def test_long_lines_cross_the_pieces_that_are_read() -> None:
    texts = ["x" * 3_000_000, "y", "z" * 1_500_000]
    Path("x.jsonl.zst").write_bytes(zstandard.compress(lines(*texts)))
    assert read(Jsonl, path="x.jsonl.zst") == texts


def test_parquet_rows_and_what_is_not_text() -> None:
    pq.write_table(pa.table({"body": ["b", None], "n": [1, 2]}), "b.parquet")
    pq.write_table(pa.table({"body": ["a"] * 1500}), "a.parquet")
    *texts, broken = read(Parquet, path=".", text="body")
    assert texts == ["a"] * 1500 + ["b"]
    assert (broken.file, broken.line) == ("b.parquet", 2)
    with pytest.raises(CorpusError, match=r"b\.parquet has no column `text`.*body, n"):
        read(Parquet, path="b.parquet")
    assert all(isinstance(row, Broken) for row in read(Parquet, path="b.parquet", text="n"))


def test_a_damaged_parquet_file_is_refused() -> None:
    pq.write_table(pa.table({"text": ["a"] * 100}), "a.parquet")
    content = Path("a.parquet").read_bytes()
    Path("a.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(CorpusError, match=r"a\.parquet cannot be read as Parquet"):
        read(Parquet, path="a.parquet")


def test_text_files_whole_or_in_pieces() -> None:
    Path("a.txt").write_bytes("\ufeffone\r\n\r\ntwo\n\n \n\nthree".encode())
    assert read(PlainText, path="a.txt") == ["one\n\ntwo\n\n \n\nthree"]
    assert read(PlainText, path="a.txt", separator="\n\n") == ["one", "two", "three"]
    Path("b.txt").write_bytes(b"caf\xe9")
    (broken,) = read(PlainText, path="b.txt")
    assert str(broken) == "b.txt: no valid UTF-8 at byte 3"


@pytest.mark.parametrize("kind", [Jsonl, Parquet, PlainText])
def test_nothing_there_is_an_error_that_names_the_path(kind: type[Any]) -> None:
    Path("empty").mkdir()
    for path in ("none/*.x", "missing.jsonl", "empty"):
        with pytest.raises(CorpusError, match=path.replace("*", r"\*")):
            read(kind, path=path)


def test_a_name_with_glob_characters_is_a_file() -> None:
    Path("a[1].jsonl").write_bytes(lines("1"))
    assert read(Jsonl, path="a[1].jsonl") == ["1"]
