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


class IndexedWriter:
    """Write documents of one sequence each, as a context manager.

    The ``.idx`` is written last, on success alone; on failure neither file stays.
    """

    def __init__(self, prefix: Path, dtype: np.dtype[Any]) -> None:
        self.prefix = prefix
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._code = {np.dtype(name): code for code, name in _CODES.items()}[self.dtype]
        self._range = np.iinfo(self.dtype)
        self._lengths: list[int] = []
        prefix.parent.mkdir(parents=True, exist_ok=True)
        self._bin = bin_path(prefix).open("wb")

    def write(self, tokens: ArrayLike) -> None:
        """Append a document, any 1-D integer array.

        Raises:
            CorpusError: a token does not fit the dtype.
        """
        wide = np.asarray(tokens, dtype=np.int64)
        if wide.size and not (self._range.min <= wide.min() and wide.max() <= self._range.max):
            raise CorpusError(
                f"{bin_path(self.prefix)}: document {len(self._lengths)} holds the token "
                f"{wide.max() if wide.max() > self._range.max else wide.min()}, which does not "
                f"fit {self.dtype.name}: was it made with another tokenizer?"
            )
        self._bin.write(wide.astype(self.dtype).tobytes())
        self._lengths.append(wide.size)

    def __enter__(self) -> IndexedWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bin.close()
        if kind is None:
            self._write_index()
        else:
            bin_path(self.prefix).unlink(missing_ok=True)

    def _write_index(self) -> None:
        n = len(self._lengths)
        lengths = np.array(self._lengths, dtype="<i4")
        ends = np.cumsum(lengths, dtype="<i8") * self.dtype.itemsize
        with idx_path(self.prefix).open("wb") as file:
            file.write(_HEADER.pack(_MAGIC, 1, self._code, n, n + 1))
            file.write(lengths.tobytes())
            file.write((ends - lengths * np.int64(self.dtype.itemsize)).astype("<i8").tobytes())
            file.write(np.arange(n + 1, dtype="<i8").tobytes())


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
        self.dtype, n, ends = _read_header(index)
        start = _HEADER.size
        self.lengths = _mapped(index, np.dtype("<i4"), start, n)
        self.offsets = _mapped(index, np.dtype("<i8"), start + 4 * n, n)
        self.documents = _mapped(index, np.dtype("<i8"), start + 12 * n, ends)
        self._check(index, payload)
        count = payload.stat().st_size // self.dtype.itemsize
        self.tokens = _mapped(payload, self.dtype, 0, count)

    def _check(self, index: Path, payload: Path) -> None:
        if len(self.lengths) and self.lengths.min() < 0:
            raise _torn(index, "has a sequence of negative length")
        ends = np.cumsum(self.lengths, dtype=np.int64) * self.dtype.itemsize
        if not np.array_equal(self.offsets[:1], [0][: len(ends)]) or not np.array_equal(
            self.offsets[1:], ends[:-1]
        ):
            raise _torn(index, "has sequences that do not follow one another")
        expected = int(ends[-1]) if len(ends) else 0
        if (size := payload.stat().st_size) != expected:
            raise _torn(payload, f"holds {size} bytes where {index.name} counts {expected}")
        documents = self.documents
        if (
            not len(documents)
            or documents[0] != 0
            or documents[-1] != len(self.lengths)
            or (np.diff(documents) < 0).any()
        ):
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


def _read_header(index: Path) -> tuple[np.dtype[Any], int, int]:
    """The dtype, the number of sequences and the number of document ends."""
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
    return np.dtype(_CODES[code]), n, ends


def _mapped(path: Path, dtype: np.dtype[Any], offset: int, count: int) -> NDArray[Any]:
    if count == 0:  # An empty range cannot be mapped.
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,))


def _torn(path: Path, problem: str) -> CorpusError:
    return CorpusError(f"{path} {problem}: run `reforge tokenize` again, or fetch it anew")
