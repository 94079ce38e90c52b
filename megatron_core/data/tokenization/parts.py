"""Tokenized documents of one source and shard, and how such parts become one dataset.

A part is two files: ``.tokens``, the tokens end to end, and ``.documents``, int64 ``[documents,
2]``: row and length of each, rows ascending.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_core.data.indexed import IndexedWriter

_DOCUMENTS = 1 << 18  # held at a time while parts are merged
_TOKENS = 1 << 22


@dataclass(frozen=True)
class Part:
    """The documents of one source in one shard; ``empty`` had no tokens and were dropped."""

    source: str
    prefix: Path
    documents: int
    tokens: int
    empty: int


class PartWriter:
    """Write a part, as a context manager."""

    def __init__(self, source: str, prefix: Path, dtype: np.dtype[Any]) -> None:
        self._source, self._prefix, self._dtype = source, prefix, dtype
        self._documents = self._tokens = self._empty = 0
        self._last = -1
        self._ascending = True
        prefix.parent.mkdir(parents=True, exist_ok=True)
        self._files = _tokens(prefix).open("wb"), _documents(prefix).open("wb")

    def write(
        self, rows: NDArray[np.int64], tokens: NDArray[Any], lengths: NDArray[np.int64]
    ) -> None:
        """Append documents whose tokens lie end to end."""
        if not len(rows):
            return
        self._ascending &= bool(self._last < rows[0] and (np.diff(rows) > 0).all())
        self._last = int(rows[-1])
        self._files[0].write(np.ascontiguousarray(tokens).data)
        self._files[1].write(np.column_stack([rows, lengths]).data)
        self._documents += len(rows)
        self._tokens += len(tokens)

    def drop(self, documents: int) -> None:
        """Count documents without tokens."""
        self._empty += documents

    def finish(self) -> Part:
        """The part, its rows in order."""
        self._close()
        part = Part(self._source, self._prefix, self._documents, self._tokens, self._empty)
        if not self._ascending:
            _sort(part, self._dtype)
        return part

    def _close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()


def merge(parts: Sequence[Part], writer: IndexedWriter, rows: NDArray[np.int64]) -> None:
    """Write the documents of all parts in the order of their rows, and these into ``rows``.

    Holds about 260,000 documents and 4 million tokens, or one document of each part.

    Args:
        rows: int64 ``[documents]``.
    """
    readers = [_Reader(part, writer.dtype) for part in parts]
    written = 0
    while readers := [reader for reader in readers if not reader.done]:
        for reader in readers:
            reader.fill(_DOCUMENTS // len(readers), _TOKENS // len(readers))
        # Up to here nothing can come any more from what was not read yet.
        limit = min(reader.limit for reader in readers)
        taken = [reader.take(limit) for reader in readers]
        documents = np.concatenate([documents for documents, _ in taken])
        tokens = np.concatenate([tokens for _, tokens in taken])
        order = np.argsort(documents[:, 0], kind="stable")
        if (np.diff(order) != 1).any():
            pieces = b"".join(_pieces(tokens, documents[:, 1], order))
            tokens, documents = np.frombuffer(pieces, tokens.dtype), documents[order]
        writer.write_documents(tokens, documents[:, 1])
        rows[written : written + len(documents)] = documents[:, 0]
        written += len(documents)


class _Reader:
    """Reads a part from front to back. No file stays open: there may be thousands of parts."""

    def __init__(self, part: Part, dtype: np.dtype[Any]) -> None:
        self._part, self._dtype = part, dtype
        self._read = 0  # documents
        self._taken = 0  # tokens
        self._waiting = np.empty((0, 2), np.int64)  # documents read and not taken

    @property
    def done(self) -> bool:
        return not len(self._waiting) and self._read == self._part.documents

    @property
    def limit(self) -> int:
        """The last row that is known to be the part's next ones."""
        if self._read == self._part.documents:
            return int(np.iinfo(np.int64).max)
        return int(self._waiting[-1, 0])

    def fill(self, documents: int, tokens: int) -> None:
        """Wait with up to as many documents and tokens, with one document at least."""
        missing = max(documents, 1) - len(self._waiting)
        if missing <= 0 or self._read == self._part.documents:
            return
        found = np.fromfile(
            _documents(self._part.prefix), np.int64, 2 * missing, offset=16 * self._read
        )
        waiting = np.concatenate([self._waiting, found.reshape(-1, 2)])
        fitting = int(np.searchsorted(np.cumsum(waiting[:, 1]), tokens, side="right"))
        waiting = waiting[: max(fitting, len(self._waiting), 1)]
        self._read += len(waiting) - len(self._waiting)
        self._waiting = waiting

    def take(self, limit: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The waiting documents with rows up to ``limit``: rows and lengths, and the tokens."""
        count = int(np.searchsorted(self._waiting[:, 0], limit, side="right"))
        documents, self._waiting = self._waiting[:count], self._waiting[count:]
        size = int(documents[:, 1].sum())
        offset = self._taken * self._dtype.itemsize
        self._taken += size
        return documents, np.fromfile(_tokens(self._part.prefix), self._dtype, size, offset=offset)


def _sort(part: Part, dtype: np.dtype[Any]) -> None:
    """Put the documents of a part into the order of their rows."""
    documents = np.fromfile(_documents(part.prefix), np.int64).reshape(-1, 2)
    order = np.argsort(documents[:, 0], kind="stable")
    if part.tokens:
        sorted_ = _tokens(part.prefix).with_suffix(".sorted")
        tokens = np.memmap(_tokens(part.prefix), dtype, "r")
        with sorted_.open("wb") as file:
            file.writelines(_pieces(tokens, documents[:, 1], order))
        sorted_.replace(_tokens(part.prefix))
    documents[order].tofile(_documents(part.prefix))


def _pieces(
    tokens: NDArray[Any], lengths: NDArray[np.int64], order: NDArray[np.int64]
) -> Iterator[memoryview]:
    """The bytes of each document, in ``order``."""
    view = tokens.data.cast("B")
    ends = np.cumsum(lengths) * tokens.itemsize
    starts = ends - lengths * tokens.itemsize
    slices = map(slice, starts[order].tolist(), ends[order].tolist())
    return map(view.__getitem__, slices)  # a loop in C


def _tokens(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.tokens")


def _documents(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.documents")
