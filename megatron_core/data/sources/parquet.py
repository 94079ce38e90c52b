"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_core.config.corpus.sources import Parquet
from megatron_core.data.sources.files import matching_files
from megatron_core.data.sources.source import Broken, Record
from megatron_core.errors import CorpusError

SUFFIXES = (".parquet",)
_BATCH = 1024  # rows held at a time


class ParquetFiles:
    """A record per row; the text stands in one column."""

    def __init__(self, config: Parquet) -> None:
        self._config = config

    def __iter__(self) -> Iterator[Record | Broken]:
        """Read every file in order; ``line`` of a broken row counts from 1 within its file.

        Raises:
            CorpusError: no file matches, one cannot be read, or it lacks the column.
        """
        for path in matching_files(self._config.path, SUFFIXES):
            try:
                yield from self._rows(path)
            except (pa.ArrowException, OSError) as error:
                raise CorpusError(f"{path} cannot be read as Parquet: {error}") from error

    def _rows(self, path: Path) -> Iterator[Record | Broken]:
        column = self._config.text
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if column not in schema.names:
                raise CorpusError(
                    f"{path} has no column `{column}`; its columns are: {', '.join(schema.names)}"
                )
            line = 0
            for batch in file.iter_batches(_BATCH, columns=[column]):
                for value in batch.column(0):
                    line += 1
                    yield self._record(path, line, value)

    def _record(self, path: Path, line: int, value: pa.Scalar) -> Record | Broken:
        try:
            text = value.as_py()
        except UnicodeDecodeError as error:
            return Broken(str(path), line, f"no valid UTF-8: {error.reason}")
        if not isinstance(text, str):
            return Broken(
                str(path), line, f"`{self._config.text}` is a {type(text).__name__}, not a string"
            )
        return Record(text)
