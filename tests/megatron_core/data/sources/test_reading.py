"""Bytes come out as they went in, cut at any place; damage is found, and what is before it kept."""

from __future__ import annotations

import gzip
import io
import random
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.data.sources import reading
from megatron_core.data.sources.reading import (
    Oversized,
    open_buffered,
    open_raw,
    read_lines,
    read_pieces,
)


class Trickle(io.RawIOBase):
    """Gives a few bytes at a time, so that every border falls somewhere."""

    def __init__(self, content: bytes, step: int) -> None:
        self._content, self._step = content, step

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        count = min(self._step, len(buffer), len(self._content))
        buffer[:count] = self._content[:count]
        self._content = self._content[count:]
        return count


BYTES = st.lists(st.sampled_from([b"a", b"b", b"\n", b"\r", b"--", b"\xff"]), max_size=30).map(
    b"".join
)


@given(BYTES, st.integers(1, 8), st.integers(1, 5))
def test_lines_are_those_of_the_file_but_for_the_long_ones(
    content: bytes, limit: int, step: int
) -> None:
    file = io.BufferedReader(Trickle(content, step), 4)
    expected: list[bytes | Oversized] = [
        line if len(line.removesuffix(b"\n").removesuffix(b"\r")) <= limit else Oversized(len(line))
        for line in io.BytesIO(content)
    ]
    assert list(read_lines(file, limit)) == expected


@given(BYTES, st.sampled_from([b"--", b"\n\n", b"a"]), st.integers(1, 8), st.integers(1, 5))
def test_pieces_are_those_between_the_separators(
    content: bytes, separator: bytes, limit: int, step: int
) -> None:
    file = io.BufferedReader(Trickle(content, step), 4)
    text = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    expected: list[tuple[int, bytes | Oversized]] = []
    start = 0
    for piece in text.split(separator):
        line = text[:start].count(b"\n") + 1
        expected.append((line, piece if len(piece) <= limit else Oversized(len(piece))))
        start += len(piece) + len(separator)
    assert list(read_pieces(file, separator, limit)) == expected


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_members_follow_one_another(tmp_path: Path, suffix: str) -> None:
    compress = gzip.compress if suffix == "gz" else zstandard.compress
    path = tmp_path / f"x.{suffix}"
    padding = b"\0" * 100_000 if suffix == "gz" else b""
    path.write_bytes(compress(b"one\n") + compress(b"") + compress(b"two" * 99_999) + padding)
    assert open_buffered(path).read() == b"one\n" + b"two" * 99_999


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_every_truncation_is_found(tmp_path: Path, suffix: str) -> None:
    compress = gzip.compress if suffix == "gz" else zstandard.compress
    content = random.Random(1).randbytes(300) + b"text " * 20
    path = tmp_path / f"x.{suffix}"
    whole = compress(content)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(EOFError, match="ends too early"):
            open_raw(path).readall()
    path.write_bytes(whole + b"trailing")
    with pytest.raises((reading.zlib.error, zstandard.ZstdError)):
        open_raw(path).readall()


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_what_is_before_the_damage_is_given_first(tmp_path: Path, suffix: str) -> None:
    lines = [random.Random(n).randbytes(20).hex().encode() + b"\n" for n in range(50_000)]
    packed = (gzip.compress if suffix == "gz" else zstandard.compress)(b"".join(lines))
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(packed[: len(packed) * 2 // 3])
    found: list[bytes | Oversized] = []
    with pytest.raises(EOFError):
        for line in read_lines(open_buffered(path), 1000):
            found.append(line)
    assert len(found) > 30_000
    assert found == lines[: len(found)]


@pytest.mark.parametrize("suffix", ["", "gz", "zst"])
def test_a_long_line_is_never_in_memory(tmp_path: Path, suffix: str) -> None:
    size = 200_000_000 if suffix == "zst" else 50_000_000
    content = b"x" * size + b"\nshort\n"
    path = tmp_path / f"x.jsonl.{suffix}"
    if suffix == "gz":
        path.write_bytes(gzip.compress(content, 1))
    else:
        path.write_bytes(zstandard.compress(content) if suffix else content)
    del content
    tracemalloc.start()
    lines = list(read_lines(open_buffered(path), 100))
    pieces = [piece for _, piece in read_pieces(open_buffered(path), b"\n", 100)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lines == [Oversized(size + 1), b"short\n"]
    assert pieces == [Oversized(size), b"short", b""]
    assert peak < 100_000_000 if suffix == "zst" else peak < 40_000_000
