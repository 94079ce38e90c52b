"""Bytes of a file: decompressed, and cut into records that fit into memory."""

from __future__ import annotations

import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

PACKED = ("", ".gz", ".zst")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_CHUNK = 1 << 20  # bytes
# Compressed bytes unpacked at a time. Those of zstd may unpack to 30,000 times their number, those
# of gzip to 1,000 times: no file makes more of them than some 70 MB.
_ZSTD_CHUNK, _GZIP_CHUNK = 1 << 10, 1 << 14


@dataclass(frozen=True, slots=True)
class Oversized:
    """A record left out for its size in bytes; it was never in memory as a whole."""

    size: int

    def reason(self, limit: int) -> str:
        """Why it was left out."""
        return f"{self.size:,} bytes, more than max_bytes = {limit:,}"


def open_raw(path: Path) -> io.RawIOBase:
    """Open a regular file, decompressed by its suffix; a read gives what is at hand.

    Reading raises OSError, EOFError, zlib.error or zstandard.ZstdError; what comes before the
    damage is given first.
    """
    check_regular(path)
    file = path.open("rb", buffering=0)
    if path.suffix == ".gz":
        return _Unpacked(file, lambda: zlib.decompressobj(wbits=31), _GZIP_CHUNK)
    if path.suffix == ".zst":
        return _Unpacked(file, zstandard.ZstdDecompressor().decompressobj, _ZSTD_CHUNK)
    return file


def open_buffered(path: Path) -> io.BufferedReader:
    """As :func:`open_raw`, with lines; give ``read1`` preference over ``read``, which drops what
    it has when the file turns out to be damaged."""
    return io.BufferedReader(open_raw(path), _CHUNK)


def check_regular(path: Path) -> None:
    """Refuse what is no file: to open a pipe would wait for whoever writes into it.

    Raises:
        OSError: ``path`` is no regular file, or is not there.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        os.scandir(path).close()  # raises if that is what it is listed for
        raise OSError("a folder, not a file")
    if not stat.S_ISREG(mode):
        raise OSError("no regular file")


def read_lines(file: io.BufferedReader, limit: int) -> Iterator[bytes | Oversized]:
    """The lines of ``file``, their ends included; no more than ``limit`` bytes of one are held."""
    most = limit + 2  # a line's end does not count
    while line := file.readline(most):
        if len(line.removesuffix(b"\n").removesuffix(b"\r")) <= limit:
            yield line
            continue
        size = len(line)
        while not line.endswith(b"\n") and (line := file.readline(_CHUNK)):
            size += len(line)
        yield Oversized(size)


def read_pieces(
    file: io.BufferedReader, separator: bytes, limit: int
) -> Iterator[tuple[int, bytes | Oversized]]:
    """What stands between ``separator`` in ``file``, each with the line it starts in, from 1.

    Without a separator that is the whole file. Lines end with a newline, whatever they end with
    in the file.
    """
    line = 1
    waiting = b""  # of the piece that is being read
    dropped, newlines = 0, 0  # bytes of it that were let go, and the newlines among them
    for chunk in _with_newlines(file):
        waiting += chunk
        *whole, waiting = waiting.split(separator) if separator else [waiting]
        for piece in whole:
            size = dropped + len(piece)
            yield line, piece if size <= limit else Oversized(size)
            line += newlines + piece.count(b"\n") + separator.count(b"\n")
            dropped, newlines = 0, 0
        sure = max(0, len(waiting) - max(0, len(separator) - 1))  # the rest may be a separator's
        if dropped + sure > limit:
            gone = waiting[:sure]
            dropped, newlines = dropped + len(gone), newlines + gone.count(b"\n")
            waiting = waiting[len(gone) :]
    size = dropped + len(waiting)
    yield line, waiting if size <= limit else Oversized(size)


def _with_newlines(file: io.BufferedReader) -> Iterator[bytes]:
    held = b""  # a carriage return whose newline may come with the next chunk
    first = True
    while chunk := file.read1(_CHUNK):
        chunk = held + chunk
        if first:
            chunk, first = chunk.removeprefix(BYTE_ORDER_MARK), False
        held = b"\r" if chunk.endswith(b"\r") else b""
        yield chunk.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if held:
        yield b"\n"


class _Unpacked(io.RawIOBase):
    """The content of one or more compressed members; refuses one that is not whole."""

    def __init__(self, file: io.RawIOBase, start: Callable[[], Any], chunk: int) -> None:
        self._file, self._start, self._chunk = file, start, chunk
        self._member: Any = start()  # an empty file is no member either
        self._packed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            packed = self._packed or self._file.read(self._chunk)
            if not packed:
                if self._member is not None:
                    raise EOFError("the compressed data ends too early")
                return 0
            if self._member is None:
                packed = packed.lstrip(b"\0")  # members may be padded
                self._member = self._start() if packed else None
            self._ready = memoryview(self._member.decompress(packed) if packed else b"")
            ended = self._member is not None and self._member.eof
            self._packed = self._member.unused_data if ended else b""
            self._member = None if ended else self._member
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count
