"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_core.config.corpus.sources import Parquet
from megatron_core.data.sources.files import SourceFile, read_files
from megatron_core.data.sources.reading import Oversized, check_regular
from megatron_core.data.sources.source import Broken, Record, RecordReader, Unreadable, named

SUFFIXES = (".parquet",)
_ROWS, _BYTES = 1024, 1 << 25  # held at a time, as far as a file's rows are of even size
_BUFFER = 1 << 20  # bytes of a column read at a time


class ParquetFiles:
    """A record per row; the text stands in one column."""

    def __init__(self, config: Parquet) -> None:
        self._config = config
        self._reader = RecordReader(config)

    def __iter__(self) -> Iterator[Record | Broken]:
        """Read every file in order; ``line`` is a row's number within its file, from 1.

        Raises:
            CorpusError: no file matches.
        """
        return read_files(self._config.path, SUFFIXES, self._records)

    def _records(self, file: SourceFile) -> Iterator[Record | Broken]:
        config, line = self._config, 0
        check_regular(file.path)
        with pa.OSFile(str(file.path)) as raw, pq.ParquetFile(raw, buffer_size=_BUFFER) as table:
            have = table.schema_arrow.names
            needed = [config.text, *([] if config.id is None else [config.id])]
            for column in needed:
                if column not in have:
                    raise Unreadable(f"no column `{column}`; the columns are: {named(have)}")
            columns = [*needed, *(key for key in config.metadata if key in have)]
            for batch in table.iter_batches(_batch_rows(table.metadata), columns=columns):
                values = [_values(batch.column(name)) for name in columns]
                for row in zip(*values, strict=True):
                    line += 1
                    yield self._record(file.name, line, dict(zip(columns, row, strict=True)))

    def _record(self, name: str, line: int, values: dict[str, Any]) -> Record | Broken:
        try:
            record = self._reader.read(values, {"file": name, "line": line})
        except Unreadable as error:
            return Broken(name, line, str(error))
        # To encode a text only to know its size is seldom needed.
        if 4 * len(record.text) > self._config.max_bytes:
            size = len(record.text.encode())
            if size > self._config.max_bytes:
                return Broken(name, line, Oversized(size).reason(self._config.max_bytes))
        return record


def _batch_rows(metadata: Any) -> int:
    size = sum(metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups))
    return int(max(1, min(_ROWS, _BYTES * metadata.num_rows // max(size, 1))))


def _values(column: pa.Array) -> list[Any]:
    """The values of ``column``; an exception in place of one that is no valid UTF-8."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(value) for value in column]


def _value(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        return error
