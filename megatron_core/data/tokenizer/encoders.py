"""What turns texts into ids: the tokenizers' own libraries, which are the reference."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Encoder(Protocol):
    """Texts into ids, without added tokens."""

    name: str

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of all texts end to end, uint32 ``[tokens]``, and how many each has.

        The second array is int64 ``[len(texts)]``.
        """
        ...


class HuggingFaceEncoder:
    """The tokenizers library, on all cores unless ``TOKENIZERS_PARALLELISM=false``."""

    name = "tokenizers"

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """As :class:`Encoder` says."""
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return flat([one.ids for one in encoded])


class SentencePieceEncoder:
    """The sentencepiece library, on one thread."""

    name = "sentencepiece"

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """As :class:`Encoder` says."""
        return flat(self._processor.encode(list(texts), out_type=int, num_threads=1))


def flat(lists: Sequence[Sequence[int]]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Lists of ids as one array of ids and one of lengths."""
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    ids = np.fromiter(chain.from_iterable(lists), np.uint32, int(lengths.sum()))
    return ids, lengths
