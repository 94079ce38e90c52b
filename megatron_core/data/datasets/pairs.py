"""Pairs of segments for an encoder: sentence order (Lan et al., 2020), next sentence (Devlin et
al., 2019).

A piece of a document is cut in two at a word drawn for the sample. Which comes when is a
``MixedOrder`` over ``DocumentPieces``; all else is a function of (seed, sample number).
``read_spans`` with a ``Frame`` of ``pair`` makes sequences of them.

Nothing but what the segments say shall tell which comes first: a document's end is left out, and
so are parts of words at the edges of a piece.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from megatron_core.data.datasets.packing import cut_documents
from megatron_core.data.datasets.spans import DocumentSpan, Sequences
from megatron_core.data.indexed import IndexedDataset
from megatron_core.data.vocabulary import Vocabulary

_FRAME = 3  # [CLS] A [SEP] B [SEP]
_FEWEST = 3  # tokens of a piece: one for each segment, and the end of the document

Kind = Literal["sentence_order", "next_sentence"]


class DocumentPieces:
    """The documents of each source, cut so that a framed pair of ``length`` tokens holds a piece.

    Pieces too short for a pair are left out.
    """

    def __init__(self, streams: Mapping[str, IndexedDataset], length: int) -> None:
        self._pieces = {}
        for name, stream in streams.items():
            starts = np.array(stream.offsets, dtype=np.int64) // stream.dtype.itemsize
            lengths = np.array(stream.lengths, dtype=np.int64)
            first, tokens = cut_documents(starts, lengths, length - _FRAME, 0)
            kept = tokens >= _FEWEST
            self._pieces[name] = first[kept], tokens[kept]
        self.counts = {name: len(first) for name, (first, _) in self._pieces.items()}

    def spans(self, source: str, item: int) -> list[DocumentSpan]:
        """Piece ``item`` of ``source``."""
        first, tokens = self._pieces[source]
        return [DocumentSpan(source, int(first[item]), int(tokens[item]))]


@dataclass(frozen=True)
class Pair:
    """Two segments as they stand in a sequence, and 0 where the second follows the first, else 1.

    In half of the samples the label is 1: for ``sentence_order`` the segments are swapped, for
    ``next_sentence`` the second is the end of another piece of the same source, as long as the
    one whose place it takes or a little shorter.
    """

    segments: list[DocumentSpan]
    label: int


class Pairs:
    """Makes a pair of a piece."""

    def __init__(
        self, streams: Mapping[str, IndexedDataset], pieces: Sequences, vocabulary: Vocabulary,
        *, kind: Kind, seed: int,
    ) -> None:  # fmt: skip
        """
        Args:
            streams: By source.
            pieces: Where another second segment is drawn from.
            vocabulary: Tells words, and the token that ends a document.
            kind: What label 1 means.
            seed: Of the recipe.
        """
        self.streams, self.pieces, self.kind, self.seed = streams, pieces, kind, seed
        self._begins_word = vocabulary.begins_word
        self._special = frozenset(vocabulary.special.values())

    def cut(self, piece: DocumentSpan, sample: int) -> Pair:
        """That of ``piece``, with the draws of global sample number ``sample``."""
        random = _Draws(f"{self.seed}:{sample}")
        edges = self._edges(piece)
        cut = edges[1 + random.below(len(edges) - 2)]
        before = _part(piece, edges[0], cut)
        after = _part(piece, cut, edges[-1])
        if not random.below(2):
            return Pair([before, after], 0)
        if self.kind == "sentence_order":
            return Pair([after, before], 1)
        other = self._another(piece, random)
        if other is None:  # with no other piece the pair stays as it is
            return Pair([before, after], 0)
        return Pair([before, self._end(other, after.tokens)], 1)

    def _edges(self, piece: DocumentSpan) -> list[int]:
        """Where words of ``piece`` begin, and where the last whole one ends, from its start.

        Of a piece with fewer than two whole words: its start, its middle and its end.
        """
        stop = piece.first + piece.tokens
        tokens = self.streams[piece.source].tokens[piece.first : stop + 1]
        end = piece.tokens - (int(tokens[piece.tokens - 1]) in self._special)
        edges = [int(at) for at in np.flatnonzero(self._begins_word[tokens]) if at <= end]
        if len(tokens) == end:  # of the whole stream
            edges.append(end)
        return edges if len(edges) > 2 else [0, end // 2, end]

    def _end(self, piece: DocumentSpan, tokens: int) -> DocumentSpan:
        """The last words of ``piece``, of at most ``tokens``; of one that is longer, its end."""
        *begins, end = self._edges(piece)
        start = next((at for at in begins if end - at <= tokens), end - tokens)
        return _part(piece, start, end)

    def _another(self, piece: DocumentSpan, random: _Draws) -> DocumentSpan | None:
        """A piece of the same source, all others equally likely; None if it is alone."""
        count = self.pieces.counts[piece.source]
        if count < 2:
            return None
        item = random.below(count - 1)
        (other,) = self.pieces.spans(piece.source, item)
        if other.first >= piece.first:  # in the order of their tokens
            (other,) = self.pieces.spans(piece.source, item + 1)
        return other


def _part(piece: DocumentSpan, start: int, stop: int) -> DocumentSpan:
    return DocumentSpan(piece.source, piece.first + start, stop - start)


class _Draws:
    """Integers from a counter."""

    def __init__(self, key: str) -> None:
        self._key, self._drawn = key, 0

    def below(self, size: int) -> int:
        """One of ``range(size)``; 64 bits make the bias of the remainder negligible."""
        name = f"{self._key}:{self._drawn}".encode()
        self._drawn += 1
        digest = hashlib.blake2b(name, digest_size=8, person=b"pairs").digest()
        return int.from_bytes(digest, "little") % size
