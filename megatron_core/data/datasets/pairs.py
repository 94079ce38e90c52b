"""Pairs of segments for an encoder: sentence order (Lan et al., 2020), next sentence (Devlin et
al., 2019).

A piece of a document is cut in two at a word drawn for the sample. Which comes when is a
``MixedOrder`` over ``DocumentPieces``; all else is a function of (seed, sample number).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megatron_core.data.datasets.packing import cut_documents
from megatron_core.data.datasets.spans import NO_DOCUMENT, PADDING, DocumentSpan, Frame
from megatron_core.data.indexed import IndexedDataset

_FRAME = 3  # [CLS] A [SEP] B [SEP]


class DocumentPieces:
    """The documents of each source, cut so that a framed pair of ``length`` tokens holds a piece.

    Pieces of one token make no pair and are left out.
    """

    def __init__(self, streams: Mapping[str, IndexedDataset], length: int) -> None:
        self._pieces = {}
        for name, stream in streams.items():
            starts = np.array(stream.offsets, dtype=np.int64) // stream.dtype.itemsize
            lengths = np.array(stream.lengths, dtype=np.int64)
            first, tokens = cut_documents(starts, lengths, length - _FRAME, 0)
            kept = tokens > 1
            self._pieces[name] = first[kept], tokens[kept]
        self.counts = {name: len(first) for name, (first, _) in self._pieces.items()}

    def spans(self, source: str, item: int) -> list[DocumentSpan]:
        """Piece ``item`` of ``source``."""
        first, tokens = self._pieces[source]
        return [DocumentSpan(source, int(first[item]), int(tokens[item]))]


@dataclass(frozen=True)
class Pairs:
    """Framed pairs, padded on the right.

    Attributes:
        tokens: int64 ``[b, length]``: [CLS] A [SEP] B [SEP].
        types: int64 ``[b, length]``: 0 up to the first [SEP], 1 for B and the second.
        labels: int64 ``[b]``: 0 where B follows A in its document, else 1.
        documents: int64 ``[b, length]``: 0, and ``NO_DOCUMENT`` where there is padding.
    """

    tokens: Tensor
    types: Tensor
    labels: Tensor
    documents: Tensor


def read_pairs(
    streams: Mapping[str, IndexedDataset],
    pieces: DocumentPieces,
    spans: Sequence[DocumentSpan],
    samples: Sequence[int],
    *,
    kind: Literal["sentence_order", "next_sentence"],
    length: int,
    frame: Frame,
    begins_word: NDArray[np.bool_],
    seed: int,
) -> Pairs:
    """The pair of each sample.

    In half of them the label is 1: for ``sentence_order`` the segments are swapped, for
    ``next_sentence`` B is the beginning of another piece of the same source, as long as it fits.

    Args:
        streams: By source.
        pieces: Where another B is drawn from.
        spans: Of each sample its piece.
        samples: The global number of each.
        kind: What label 1 means.
        length: Tokens of a framed pair.
        frame: [CLS] and [SEP].
        begins_word: bool ``[vocabulary]``: a piece is cut before such a token, if it has one
            after its first.
        seed: Of the recipe.
    """
    tokens = np.full((len(samples), length), PADDING, dtype=np.int64)
    types = np.zeros_like(tokens)
    documents = np.full_like(tokens, NO_DOCUMENT)
    labels = np.zeros(len(samples), dtype=np.int64)
    for row, (sample, span) in enumerate(zip(samples, spans, strict=True)):
        random = _Draws(f"{seed}:{sample}")
        whole = _tokens(streams, span)
        words = 1 + np.flatnonzero(begins_word[whole[1:]])
        cut = int(words[random.below(len(words))]) if len(words) else len(whole) // 2
        before, after = whole[:cut], whole[cut:]
        labels[row] = random.below(2)
        if labels[row] and kind == "sentence_order":
            before, after = after, before
        elif labels[row]:
            other = _another(pieces, span, random)
            # With no other piece the pair stays as it is.
            labels[row] = other is not None
            if other is not None:
                after = _tokens(streams, other)[: length - _FRAME - len(before)]
        pair = [frame.first, *before, frame.last, *after, frame.last]
        tokens[row, : len(pair)] = pair
        types[row, len(before) + 2 : len(pair)] = 1
        documents[row, : len(pair)] = 0
    return Pairs(*(torch.from_numpy(x) for x in (tokens, types, labels, documents)))


def _tokens(streams: Mapping[str, IndexedDataset], span: DocumentSpan) -> NDArray[np.int64]:
    part = streams[span.source].tokens[span.first : span.first + span.tokens]
    return np.asarray(part, dtype=np.int64)


def _another(pieces: DocumentPieces, span: DocumentSpan, random: _Draws) -> DocumentSpan | None:
    """A piece of the same source that is not ``span``, all equally likely; None if it is alone."""
    count = pieces.counts[span.source]
    if count < 2:
        return None
    item = random.below(count - 1)
    if pieces.spans(span.source, item)[0].first >= span.first:  # in the order of their tokens
        item += 1
    return pieces.spans(span.source, item)[0]


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
