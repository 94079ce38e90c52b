"""What turns texts into ids: the tokenizers' own libraries, which are the reference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

_BYTE = re.compile("<0x[0-9A-F]{2}>")


class Encoder(Protocol):
    """Texts into ids, without added tokens."""

    name: str

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of all texts end to end, uint32 ``[tokens]``, and how many each has.

        The second array is int64 ``[len(texts)]``.
        """
        ...


class Pieces(NamedTuple):
    """The ids of a text, and for each the characters ``start … stop - 1`` that it stands for.

    White space before a word is its piece's where the vocabulary has it so. Pieces that are bytes
    of one character have all of it; a piece that stands for none is empty.
    """

    ids: list[int]
    places: list[tuple[int, int]]


class Reference(Encoder, Protocol):
    """An encoder that knows where its pieces are from."""

    def encode_with_places(self, texts: Sequence[str]) -> list[Pieces]:
        """The pieces of each text; the ids are those of ``encode``."""
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

    def encode_with_places(self, texts: Sequence[str]) -> list[Pieces]:
        """As :class:`Reference` says."""
        encoded = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            Pieces(one.ids, _spread_bytes(text, one.tokens, one.offsets))
            for text, one in zip(texts, encoded, strict=True)
        ]


class SentencePieceEncoder:
    """The sentencepiece library, on one thread."""

    name = "sentencepiece"

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """As :class:`Encoder` says."""
        return flat(self._processor.encode(list(texts), out_type=int, num_threads=1))

    def encode_with_places(self, texts: Sequence[str]) -> list[Pieces]:
        """As :class:`Reference` says."""
        encoded = self._processor.encode(list(texts), return_type="proto", num_threads=1)
        return [
            Pieces([piece.id for piece in one.pieces], self._places(text, one.pieces))
            for text, one in zip(texts, encoded, strict=True)
        ]

    def _places(self, text: str, pieces: Sequence[Any]) -> list[tuple[int, int]]:
        """SentencePiece counts bytes, and gives a character to the last of its bytes alone."""
        places = [(piece.begin, piece.end) for piece in pieces]
        for n in range(len(pieces) - 2, -1, -1):
            start, stop = places[n]
            if start == stop == places[n + 1][0] and self._processor.is_byte(pieces[n].id):
                places[n] = places[n + 1]
        if text.isascii():
            return places
        sizes = np.fromiter((len(letter.encode()) for letter in text), np.int64, len(text))
        begins, stops = np.array(places, np.int64).reshape(-1, 2).T
        edges = np.concatenate([[0], np.cumsum(sizes)])
        found = np.searchsorted(edges, [begins, stops])
        return [(int(start), int(stop)) for start, stop in found.T]


def flat(lists: Sequence[Sequence[int]]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Lists of ids as one array of ids and one of lengths."""
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    ids = np.fromiter(chain.from_iterable(lists), np.uint32, int(lengths.sum()))
    return ids, lengths


def _spread_bytes(
    text: str, tokens: Sequence[str], places: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Places where a run of byte pieces, which have that of all its characters, is told apart."""
    found, first = list(places), 0
    while first < len(places):
        start, stop = places[first]
        last = first
        while (
            last < len(places) and places[last] == places[first] and _BYTE.fullmatch(tokens[last])
        ):
            last += 1
        if last - first < 2 or stop - start < 2:
            first = max(last, first + 1)
            continue
        letters = [at for at in range(start, stop) for _ in text[at].encode(errors="replace")]
        if len(letters) == last - first:
            found[first:last] = [(at, at + 1) for at in letters]
        first = last
    return found
