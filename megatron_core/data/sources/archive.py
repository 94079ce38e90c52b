"""Web archives (WARC, ISO 28500) and the HTTP responses in them.

The libraries that read them stop in silence, or with errors of their own making, at a file that
is cut short or overwritten; here such a file must count as broken.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, parse_headers
from typing import Any

from megatron_core.data.sources.source import Unreadable

_CHUNK = 1 << 20
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[^\r\n]*\r?\n")


@dataclass(frozen=True, slots=True)
class ArchivedResponse:
    """What a server answered; ``number`` counts the archive's records of any type, from 1.

    ``content`` is None when it is more bytes than wanted; ``size`` is how many.
    """

    number: int
    headers: Message
    content: bytes | None
    size: int

    def header(self, name: str) -> str | None:
        """A header of the archive's record."""
        value = self.headers.get(name)
        return None if value is None else value.encode("latin-1").decode(errors="replace")


def read_responses(file: io.BufferedReader, limit: int) -> Iterator[ArchivedResponse]:
    """The HTTP responses in an uncompressed archive; no more than ``limit`` bytes are held.

    Raises:
        Unreadable: the file is no archive, or is one no further.
    """
    number = 0
    while line := _next_line(file):
        number += 1
        if not line.startswith(b"WARC/"):
            raise Unreadable("what follows is no WARC record")
        headers = _headers(file)
        length = headers.get("Content-Length", "").strip()
        if not (length.isascii() and length.isdecimal()):
            raise Unreadable("a WARC record does not say how long it is")
        size = int(length)
        wanted = headers.get("WARC-Type") == "response" and headers.get(
            "Content-Type", ""
        ).startswith("application/http")
        content = _take(file, size, keep=wanted and size <= limit)
        if wanted:
            yield ArchivedResponse(number, headers, content, size)


def parse_response(content: bytes, limit: int) -> tuple[int, Message, bytes]:
    """Status, headers and decoded body of an HTTP response.

    Raises:
        Unreadable: it is no HTTP, or the body has more than ``limit`` bytes.
    """
    file = io.BytesIO(content)
    status = file.readline().split(maxsplit=2)
    if len(status) < 2 or not status[0].startswith(b"HTTP/") or not status[1].isdigit():
        raise Unreadable("no HTTP response")
    headers = _headers(file)
    body = file.read()
    if headers.get("Transfer-Encoding", "").lower().endswith("chunked"):
        body = _unchunked(body)
    for encoding in reversed(headers.get("Content-Encoding", "").lower().split(",")):
        body = _decoded(body, encoding.strip(), limit)
    return int(status[1]), headers, body


def _next_line(file: io.BufferedReader) -> bytes:
    """The next line that is not blank, or none."""
    while line := file.readline(_CHUNK):
        if not line.isspace():
            return line
    return b""


def _headers(file: Any) -> Message:
    try:
        return parse_headers(file)
    except HTTPException as error:
        raise Unreadable(f"headers cannot be read: {error}") from error


def _take(file: io.BufferedReader, size: int, *, keep: bool) -> bytes | None:
    """Read ``size`` bytes, and keep them or not."""
    parts = []
    while size and (part := file.read(min(size, _CHUNK))):
        size -= len(part)
        if keep:
            parts.append(part)
    if size:
        raise Unreadable("the archive ends within a record")
    return b"".join(parts) if keep else None


def _unchunked(body: bytes) -> bytes:
    """``body`` out of its chunks; as it is when the crawler has put them together already."""
    parts, at = [], 0
    while match := _CHUNK_SIZE.match(body, at):
        size = int(match[1], 16)
        parts.append(body[match.end() : match.end() + size])
        at = match.end() + size + 2
        if not size:
            break
    return b"".join(parts) if parts else body


def _decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """``body`` decompressed; as it is when the crawler has done so already."""
    if encoding == "br":
        decoded = _unbrotlied(body, limit)
    elif encoding in ("gzip", "x-gzip", "deflate"):
        bare = encoding == "deflate" and body[:1] != b"\x78"  # without zlib's header
        try:
            decoded = zlib.decompressobj(wbits=-15 if bare else 47).decompress(body, limit + 1)
        except zlib.error:
            return body
    else:
        return body
    if len(decoded) > limit:
        raise Unreadable(f"more than max_bytes = {limit:,} bytes once decompressed")
    return decoded


def _unbrotlied(body: bytes, limit: int) -> bytes:
    import brotli  # comes with resiliparse

    try:
        return bytes(brotli.Decompressor().process(body, output_buffer_limit=limit + 1))
    except brotli.error:
        return body
