"""JSON lines, plain or compressed."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from megatron_core.config.corpus.sources import Jsonl
from megatron_core.data.sources.files import SourceFile, read_files
from megatron_core.data.sources.reading import (
    BYTE_ORDER_MARK,
    PACKED,
    Oversized,
    open_buffered,
    read_lines,
)
from megatron_core.data.sources.source import Broken, Record, RecordReader, Unreadable

SUFFIXES = tuple(f"{name}{packed}" for name in (".jsonl", ".json") for packed in PACKED)


class JsonLines:
    """A record per line that is not blank; the text stands under one key."""

    def __init__(self, config: Jsonl) -> None:
        self._config = config
        self._reader = RecordReader(config)

    def __iter__(self) -> Iterator[Record | Broken]:
        """Read every file in order.

        Raises:
            CorpusError: no file matches.
        """
        return read_files(self._config.path, SUFFIXES, self._records)

    def _records(self, file: SourceFile) -> Iterator[Record | Broken]:
        limit = self._config.max_bytes
        with open_buffered(file.path) as stream:
            for number, line in enumerate(read_lines(stream, limit), start=1):
                if isinstance(line, Oversized):
                    yield Broken(file.name, number, line.reason(limit))
                    continue
                line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
                if line and not line.isspace():
                    yield self._record(file.name, number, line)

    def _record(self, name: str, number: int, line: bytes) -> Record | Broken:
        try:
            value = orjson.loads(line)
            if not isinstance(value, dict):
                raise Unreadable(f"a JSON {type(value).__name__}, not an object")
            return self._reader.read(value, {"file": name, "line": number})
        except orjson.JSONDecodeError as error:
            return Broken(name, number, f"no valid JSON: {error}")
        except Unreadable as error:
            return Broken(name, number, str(error))
