"""Megatron's indexed datasets: a ``.bin`` of raw tokens and an ``.idx`` that cuts it up.

The files are byte for byte those of Megatron-LM's ``IndexedDatasetBuilder``. The ``.idx`` holds,
little-endian and without padding::

    9 bytes  "MMIDIDX\\0\\0"            u64  version, 1        u8  dtype code
    u64      sequences n               u64  documents + 1
    i32[n]   lengths in tokens         i64[n]  offsets in bytes
    i64[documents + 1]  number of the first sequence of each document, then n
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megatron_core.errors import CorpusError

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_BLOCK = 1 << 20  # documents handled at a time
_SAMPLE = 64  # blocks looked at when a dataset is opened
_SAMPLE_BLOCK = 4096  # documents of such a block
_CODES: dict[int, str] = {1: "|u1", 2: "|i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """uint16 below 65,500 entries, else int32: Megatron's own rule."""
    return np.dtype("<u2" if vocabulary_size < 65_500 else "<i4")


def bin_path(prefix: Path) -> Path:
    """The file of tokens; a prefix may hold dots, so this is no change of suffix."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """The file of lengths, offsets and documents."""
    return prefix.with_name(prefix.name + ".idx")


def rows_path(prefix: Path) -> Path:
    """The file beside the two that Megatron knows: int64[documents], the rows in the source."""
    return prefix.with_name(prefix.name + ".rows.npy")


class IndexedWriter:
    """Write documents of one sequence each, as a context manager.

    The ``.idx`` is there on success alone; on failure neither file stays. Memory does not grow
    with the number of documents.
    """

    def __init__(self, prefix: Path, dtype: np.dtype[Any]) -> None:
        self.prefix = prefix
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._code = {np.dtype(name): code for code, name in _CODES.items()}[self.dtype]
        self._range = np.iinfo(self.dtype)
        self._documents = 0
        prefix.parent.mkdir(parents=True, exist_ok=True)
        self._bin = bin_path(prefix).open("wb")
        # The lengths are where they will be in the end; what follows them is made from them.
        self._unfinished = idx_path(prefix).with_name(f".{prefix.name}.idx.partial")
        self._idx = self._unfinished.open("wb+")
        self._idx.seek(_HEADER.size)

    def write(self, tokens: ArrayLike) -> None:
        """Append a document, any 1-D integer array.

        Raises:
            CorpusError: a token does not fit the dtype.
        """
        ids = np.asarray(tokens, dtype=np.int64)
        self.write_documents(ids, np.array([ids.size]))

    def write_documents(self, tokens: NDArray[Any], lengths: NDArray[Any]) -> None:
        """Append documents of ``lengths`` whose ``tokens`` lie end to end, both integer arrays.

        Raises:
            CorpusError: a token does not fit the dtype.
        """
        if tokens.dtype != self.dtype:
            self._check_range(tokens, lengths)
            tokens = tokens.astype(self.dtype)
        self._bin.write(np.ascontiguousarray(tokens).data)
        self._idx.write(lengths.astype("<i4").data)
        self._documents += len(lengths)

    def _check_range(self, tokens: NDArray[Any], lengths: NDArray[Any]) -> None:
        wrong = (tokens < self._range.min) | (tokens > self._range.max)
        if wrong.any():
            at = int(wrong.argmax())
            document = self._documents + int(np.searchsorted(np.cumsum(lengths), at, side="right"))
            raise CorpusError(
                f"{bin_path(self.prefix)}: document {document} holds the token {tokens[at]}, which "
                f"does not fit {self.dtype.name}: was it made with another tokenizer?"
            )

    def __enter__(self) -> IndexedWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bin.close()
        try:
            if kind is None:
                self._finish_index()
            else:
                bin_path(self.prefix).unlink(missing_ok=True)
        finally:
            self._idx.close()
            self._unfinished.unlink(missing_ok=True)

    def _finish_index(self) -> None:
        n, file, size = self._documents, self._idx, self.dtype.itemsize
        file.seek(0)
        file.write(_HEADER.pack(_MAGIC, 1, self._code, n, n + 1))
        offset = 0
        for start in range(0, n, _BLOCK):
            file.seek(_HEADER.size + 4 * start)
            lengths = np.frombuffer(file.read(4 * min(_BLOCK, n - start)), "<i4").astype("<i8")
            ends = offset + np.cumsum(lengths * size, dtype="<i8")
            file.seek(_HEADER.size + 4 * n + 8 * start)
            file.write((ends - lengths * size).data)
            offset = int(ends[-1])
        file.seek(_HEADER.size + 12 * n)
        for start in range(0, n + 1, _BLOCK):
            file.write(np.arange(start, min(start + _BLOCK, n + 1), dtype="<i8").data)
        file.close()
        self._unfinished.replace(idx_path(self.prefix))


class IndexedDataset(Sequence[NDArray[Any]]):
    """Read an indexed dataset through memory maps; item i is sequence i.

    Attributes:
        dtype: of a token.
        lengths: int32[n], tokens of each sequence.
        offsets: int64[n], where each sequence starts in the ``.bin``, in bytes.
        documents: int64[documents + 1], first sequence of each document, then n.
        tokens: the whole ``.bin``, flat.

    Raises:
        CorpusError: a file is missing, torn or altered, or the two do not belong together.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        index, payload = idx_path(prefix), bin_path(prefix)
        for path in (index, payload):
            if not path.is_file():
                raise CorpusError(f"{path} does not exist: run `reforge tokenize`")
        self.dtype, n = _read_header(index)
        # One map, so one open file: a stage may open thousands of datasets.
        content = _mapped(index, np.dtype("u1"))[_HEADER.size :]
        self.lengths = content[: 4 * n].view("<i4")
        self.offsets = content[4 * n : 12 * n].view("<i8")
        self.documents = content[12 * n :].view("<i8")
        self._check_ends(payload)
        last = max(n, len(self.documents)) - _SAMPLE_BLOCK
        for start in np.linspace(0, last, _SAMPLE) if last > 0 else [0]:
            self._check(int(start), int(start) + _SAMPLE_BLOCK)
        self.tokens = _mapped(payload, self.dtype)

    def verify(self) -> None:
        """Look at every sequence; opening looks at a bounded sample of them.

        Raises:
            CorpusError: the index is altered.
        """
        for start in range(0, max(len(self), len(self.documents)), _BLOCK):
            self._check(start, start + _BLOCK)

    def _check_ends(self, payload: Path) -> None:
        index = idx_path(self.prefix)
        end = 0
        if len(self):
            end = int(self.offsets[-1]) + int(self.lengths[-1]) * self.dtype.itemsize
            if self.offsets[0] != 0:
                raise _torn(index, "has a first sequence that is not at the start")
        if not len(self.documents) or self.documents[0] != 0 or self.documents[-1] != len(self):
            raise _torn(index, "has documents that do not cover its sequences")
        if (size := payload.stat().st_size) != end:
            raise _torn(payload, f"holds {size} bytes where {index.name} counts {end}")

    def _check(self, start: int, stop: int) -> None:
        """Whether sequences ``start`` to ``stop`` follow one another."""
        index = idx_path(self.prefix)
        lengths = self.lengths[start:stop].astype(np.int64)
        if (lengths < 0).any():
            raise _torn(index, "has a sequence of negative length")
        steps = np.diff(self.offsets[start : stop + 1])
        if (steps != lengths[: len(steps)] * self.dtype.itemsize).any():
            raise _torn(index, "has sequences that do not follow one another")
        if (np.diff(self.documents[start : stop + 1]) < 0).any():
            raise _torn(index, "has documents that do not cover its sequences")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: Any) -> Any:
        """Sequence ``i``, or a list of them for a slice: read-only views of the file."""
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"sequence {i} of {len(self)} in {self.prefix}")
        start = int(self.offsets[i]) // self.dtype.itemsize
        return self.tokens[start : start + int(self.lengths[i])]

    def __reduce__(self) -> tuple[type[IndexedDataset], tuple[Path]]:
        # A worker process opens the files again instead of receiving their content.
        return type(self), (self.prefix,)


def _read_header(index: Path) -> tuple[np.dtype[Any], int]:
    """The dtype and the number of sequences."""
    with index.open("rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise _torn(index, f"is {len(header)} bytes long, shorter than its header")
    magic, version, code, n, ends = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise _torn(index, "is not the index of a Megatron dataset")
    if version != 1:
        raise _torn(index, f"has format version {version}; only 1 is known")
    if code not in _CODES:
        raise _torn(index, f"has dtype code {code}; tokens are integers, {sorted(_CODES)}")
    expected, size = _HEADER.size + 12 * n + 8 * ends, index.stat().st_size
    if size == expected + n != expected:
        raise _torn(index, "has modes per sequence: multimodal datasets are not supported")
    if size != expected:
        raise _torn(index, f"is {size} bytes long where its header counts {expected}")
    return np.dtype(_CODES[code]), n


def _mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if path.stat().st_size == 0:  # An empty file cannot be mapped.
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def _torn(path: Path, problem: str) -> CorpusError:
    return CorpusError(f"{path} {problem}: run `reforge tokenize` again, or fetch it anew")
