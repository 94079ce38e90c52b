"""Parquet: a record a row, what it brings with it, and files that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_core.config.corpus.sources import Parquet
from megatron_core.data.sources import Record, open_source


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def records(path: str, **config: Any) -> list[Any]:
    return list(open_source(Parquet(kind="parquet", path=path, **config)))


def read(path: str, **config: Any) -> list[Any]:
    return [
        record.text if isinstance(record, Record) else record for record in records(path, **config)
    ]


def test_rows_and_what_is_not_text() -> None:
    pq.write_table(pa.table({"body": ["b", None], "n": [1, 2]}), "b.parquet")
    pq.write_table(pa.table({"body": ["a"] * 1500}), "a.parquet")
    *texts, broken = read(".", text="body")
    assert texts == ["a"] * 1500 + ["b"]
    assert str(broken) == "b.parquet:2: `body` is a NoneType, not a string"
    assert records(".", text="body")[1400].metadata == {
        "origin": {"file": "a.parquet", "line": 1401}
    }


def test_columns_kept_on_request() -> None:
    table = {"text": ["a", "b"], "patient": [7, None], "tags": [["x"], []], "id": ["i", "j"]}
    pq.write_table(pa.table(table), "a.parquet")
    first, second = records(".", metadata=["patient", "tags", "absent"], id="id")
    origin = {"file": "a.parquet", "line": 1}
    assert first.metadata == {"patient": 7, "tags": ["x"], "record": "i", "origin": origin}
    assert second.metadata == {"tags": [], "record": "j", "origin": origin | {"line": 2}}


def test_files_that_do_not_fit_are_broken() -> None:
    pq.write_table(pa.table({"text": ["a"] * 100}), "a.parquet")
    content = Path("a.parquet").read_bytes()
    Path("b.parquet").write_bytes(content[: len(content) // 2])
    Path("c.parquet").write_bytes(b"")
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), "d.parquet")
    Path("e.parquet").write_bytes(content)
    *texts, torn, empty, other, last = read(".")[:-99]
    assert texts == ["a"] * 100
    assert str(torn).startswith("b.parquet: unreadable after 0 records: ")
    assert str(empty).startswith("c.parquet: unreadable after 0 records: ")
    assert str(Path.cwd()) not in f"{torn}{empty}"
    assert str(other) == (
        "d.parquet: unreadable after 0 records: no column `text`; the columns are: body, n"
    )
    assert last == "a"


def test_a_damaged_page_leaves_the_rows_before_it() -> None:
    texts = [f"{n * 7919 % 1009} some text" * 30 for n in range(4000)]
    table = pa.table({"text": texts})
    pq.write_table(
        table, "a.parquet", row_group_size=1000, use_dictionary=False, write_page_checksum=True
    )
    content = bytearray(Path("a.parquet").read_bytes())
    at = pq.ParquetFile("a.parquet").metadata.row_group(2).column(0).data_page_offset
    content[at : at + 30] = bytes(30)
    Path("a.parquet").write_bytes(content)
    *before, broken = read("a.parquet")
    assert before == texts[: len(before)]
    assert len(before) >= 1000
    assert broken.reason.startswith(f"unreadable after {len(before)} records: ")


def test_what_is_no_utf8_is_one_broken_row() -> None:
    array = pa.array([b"fine", b"\xff", b"good"]).view(pa.string())
    pq.write_table(pa.table({"text": array}), "a.parquet")
    first, broken, last = read("a.parquet")
    assert (first, last) == ("fine", "good")
    assert str(broken).startswith("a.parquet:2: `text` is no valid UTF-8")


def test_long_texts_are_set_aside() -> None:
    pq.write_table(pa.table({"text": ["é" * 5, "é" * 6]}), "a.parquet")
    short, broken = read("a.parquet", max_bytes=10)
    assert short == "é" * 5
    assert str(broken) == "a.parquet:2: 12 bytes, more than max_bytes = 10"
