"""JSON lines: a record a line, what it brings with it, and what is set aside."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from megatron_core.config.corpus.sources import Jsonl
from megatron_core.data.sources import Broken, Record, open_source


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines(*texts: str, key: str = "text") -> bytes:
    return b"".join(json.dumps({key: text}).encode() + b"\n" for text in texts)


def records(path: str, **config: Any) -> list[Any]:
    return list(open_source(Jsonl(kind="jsonl", path=path, **config)))


def read(path: str, **config: Any) -> list[Any]:
    return [
        record.text if isinstance(record, Record) else record for record in records(path, **config)
    ]


def test_plain_and_compressed_in_the_order_of_names() -> None:
    Path("d/deep").mkdir(parents=True)
    Path("d/b.jsonl").write_bytes(lines("b1", "b2"))
    Path("d/a.jsonl.gz").write_bytes(gzip.compress(lines("a1")) + gzip.compress(lines("a2")))
    compress = zstandard.ZstdCompressor().compress
    Path("d/deep/c.json.zst").write_bytes(compress(lines("c1")) + compress(lines("c2")))
    found = records("d")
    assert [record.text for record in found] == ["a1", "a2", "b1", "b2", "c1", "c2"]
    assert [(o["file"], o["line"]) for o in (record.metadata["origin"] for record in found)] == [
        ("a.jsonl.gz", 1), ("a.jsonl.gz", 2), ("b.jsonl", 1), ("b.jsonl", 2),
        ("deep/c.json.zst", 1), ("deep/c.json.zst", 2),
    ]  # fmt: skip


def test_other_key_blank_lines_and_byte_order_mark() -> None:
    Path("x.jsonl").write_bytes(
        b"\xef\xbb\xbf" + lines("é", key="body") + b"\r\n\n" + b'{"body":"2"}'
    )
    first, second = records("x.jsonl", text="body")
    assert (first.text, second.text) == ("é", "2")
    assert second.metadata["origin"] == {"file": "x.jsonl", "line": 4}


def test_keys_kept_on_request() -> None:
    Path("x.jsonl").write_text(
        '{"text": "a", "title": "T", "score": 0.5, "other": 1, "n": 7}\n'
        '{"text": "b", "title": null, "n": "8"}\n{"text": "c"}\n'
    )
    first, second, broken = records("x.jsonl", metadata=["score", "title"], id="n")
    origin = {"file": "x.jsonl", "line": 1}
    assert first.metadata == {"score": 0.5, "title": "T", "record": 7, "origin": origin}
    assert second.metadata == {"record": "8", "origin": origin | {"line": 2}}
    assert str(broken) == "x.jsonl:3: no key `n`; the keys are: text"


def test_texts_are_kept_exactly() -> None:
    text = "nul \0, emoji 👩🏽‍⚕️, right to left שלום \u200fمرحبا\u200e, tabs\t and \u2028 ends \r\n"
    Path("x.jsonl").write_text(json.dumps({"text": text}) + "\n")
    assert read("x.jsonl") == [text]


def test_broken_lines_have_a_place_and_a_reason() -> None:
    Path("x.jsonl").write_bytes(
        lines("1")
        + b'{"text"\n[1]\n{"body": "2"}\n{"text": 3}\n{"text": "\xff"}\n{"text": "\\ud800"}\n'
        + b'{"text": "\0"}\n\0\0\0\n' + b"[" * 100_000 + b"\n"
        + lines("4")
    )  # fmt: skip
    first, *broken, last = read("x.jsonl")
    assert (first, last) == ("1", "4")
    assert all(isinstance(record, Broken) for record in broken)
    assert [str(record).split(": ")[0] for record in broken] == [
        f"x.jsonl:{n}" for n in range(2, 11)
    ]
    reasons = [
        "no valid JSON", "not an object", "the keys are: body", "is a int", "no valid JSON",
        "no valid JSON", "no valid JSON", "no valid JSON", "no valid JSON",
    ]  # fmt: skip
    for record, reason in zip(broken, reasons, strict=True):
        assert reason in record.reason


def test_reasons_are_short_whatever_the_keys() -> None:
    Path("x.jsonl").write_text(json.dumps({f"{n}" * 1000: 1 for n in range(1000)}))
    (broken,) = read("x.jsonl")
    assert len(broken.reason) < 1000


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_damaged_file_is_broken_after_what_could_be_read(suffix: str) -> None:
    Path("d").mkdir()
    # Long enough that the compressed form has a middle to cut at.
    texts = [f"line {n * 7919 % 100_003}" for n in range(80_000)]
    packed = (gzip.compress if suffix == "gz" else zstandard.compress)(lines(*texts))
    Path(f"d/a.jsonl.{suffix}").write_bytes(packed[: len(packed) // 2])
    Path(f"d/b.jsonl.{suffix}").write_bytes(b"not compressed at all")
    Path("d/c.jsonl").write_bytes(lines("whole"))
    *before, cut, garbage, last = read("d")
    assert len(before) > 20_000
    assert before == texts[: len(before)]
    assert str(cut) == (
        f"a.jsonl.{suffix}: unreadable after {len(before)} records: "
        "the compressed data ends too early"
    )
    assert str(garbage).startswith(f"b.jsonl.{suffix}: unreadable after 0 records: ")
    assert last == "whole"


def test_a_line_of_50_megabytes_is_a_record_or_set_aside() -> None:
    text = "word " * 10_000_000
    Path("x.jsonl").write_bytes(lines(text, "next"))
    assert read("x.jsonl") == [text, "next"]
    broken, following = read("x.jsonl", max_bytes=1_000_000)
    assert str(broken) == "x.jsonl:1: 50,000,013 bytes, more than max_bytes = 1,000,000"
    assert following == "next"
