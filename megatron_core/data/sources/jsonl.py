"""JSON lines, plain or compressed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson
import zstandard

from megatron_core.config.corpus.sources import Jsonl
from megatron_core.data.sources.files import matching_files
from megatron_core.data.sources.source import Broken, Record
from megatron_core.errors import CorpusError

SUFFIXES = tuple(
    f"{name}{packed}" for name in (".jsonl", ".json") for packed in ("", ".gz", ".zst")
)
_CHUNK = 1 << 20  # bytes read at a time
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonLines:
    """A record per line that is not blank; the text stands under one key."""

    def __init__(self, config: Jsonl) -> None:
        self._config = config

    def __iter__(self) -> Iterator[Record | Broken]:
        """Read every file in order.

        Raises:
            CorpusError: no file matches, or one cannot be read or decompressed.
        """
        for path in matching_files(self._config.path, SUFFIXES):
            for number, line in enumerate(_lines(path), start=1):
                line = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
                if not line.isspace() and line:
                    yield self._record(path, number, line)

    def _record(self, path: Path, number: int, line: bytes) -> Record | Broken:
        key = self._config.text
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            return Broken(str(path), number, f"no valid JSON: {error}")
        if not isinstance(value, dict):
            return Broken(str(path), number, f"a JSON {type(value).__name__}, not an object")
        if key not in value:
            found = ", ".join(sorted(value)) or "none"
            return Broken(str(path), number, f"no key `{key}`; the keys are: {found}")
        text = value[key]
        if not isinstance(text, str):
            return Broken(str(path), number, f"`{key}` is a {type(text).__name__}, not a string")
        return Record(text)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            if path.suffix == ".gz":
                yield from gzip.GzipFile(fileobj=file)
            elif path.suffix == ".zst":
                yield from _split(_decompressed(iter(lambda: file.read(_CHUNK), b"")))
            else:
                yield from file
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise CorpusError(f"{path} cannot be read: {error}") from error


def _decompressed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress one or more frames; unlike the library's reader, refuse a truncated one."""
    decompressor = zstandard.ZstdDecompressor()
    frame = None
    for chunk in chunks:
        while chunk:
            frame = frame or decompressor.decompressobj()
            yield frame.decompress(chunk)
            chunk = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the compressed data ends too early")


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    parts: list[bytes] = []
    for chunk in chunks:
        head, *tail = chunk.split(b"\n")
        parts.append(head)
        for piece in tail:
            yield b"".join(parts)
            parts = [piece]
    yield b"".join(parts)
