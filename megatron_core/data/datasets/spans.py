"""What a sequence is made of: spans of documents, and how they are read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from megatron_core.data.indexed import IndexedDataset

PADDING = 0  # a token that nothing sees and that is never predicted, so any will do
NO_DOCUMENT = -1


class DocumentSpan(NamedTuple):
    """Consecutive tokens of one document.

    Attributes:
        source: Whose document it is.
        first: Number of the first token in the source's stream of tokens, from 0.
        tokens: How many.
    """

    source: str
    first: int
    tokens: int


class Sequences(Protocol):
    """The tokens of each source cut into numbered sequences."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Sequences of each source."""
        ...

    def spans(self, source: str, item: int) -> list[DocumentSpan]:
        """What sequence ``item`` of ``source`` is made of."""
        ...


class SampleOrder(Protocol):
    """Which sequence comes when."""

    def locate(self, sample: int) -> list[DocumentSpan]:
        """What global sample number ``sample``, counted from 0, is made of, in its order."""
        ...


def split_at_documents(
    stream: IndexedDataset, source: str, start: int, stop: int
) -> list[DocumentSpan]:
    """Tokens ``start … stop - 1`` of the stream of ``source``, a span for each document."""
    size = stream.dtype.itemsize
    # Only the few offsets that a bisection looks at are read from the file.
    document = bisect_right(stream.offsets, start * size) - 1
    spans = []
    while start < stop:
        end = int(stream.offsets[document]) // size + int(stream.lengths[document])
        if start < end:
            spans.append(DocumentSpan(source, start, min(stop, end) - start))
            start = end
        document += 1
    return spans


@dataclass(frozen=True)
class Frame:
    """Tokens around a sequence, or around each of its documents, such as [CLS] and [SEP].

    With ``pair`` a sequence is two spans, and there is a ``last`` after each.
    """

    first: int
    last: int
    each_document: bool = False
    pair: bool = False

    @property
    def ends_each(self) -> bool:
        """Whether there is a ``last`` after each span."""
        return self.each_document or self.pair


def read_spans(
    streams: Mapping[str, IndexedDataset],
    samples: Sequence[Sequence[DocumentSpan]],
    length: int,
    frame: Frame | None = None,
) -> tuple[Tensor, Tensor]:
    """The tokens of each sample, framed and padded on the right.

    Returns:
        ``(tokens, documents)``, both int64 ``[len(samples), length]``: the tokens, and the number
        within its sample of the span that each is of, ``NO_DOCUMENT`` where there is padding.
    """
    tokens = np.full((len(samples), length), PADDING, dtype=np.int64)
    documents = np.full((len(samples), length), NO_DOCUMENT, dtype=np.int64)
    for row, spans in enumerate(samples):
        at = 0
        for number, (source, first, count) in enumerate(spans):
            part = streams[source].tokens[first : first + count]
            if frame is not None:
                begins = [frame.first] * (number == 0 or frame.each_document)
                ends = [frame.last] * (number == len(spans) - 1 or frame.ends_each)
                part = np.concatenate([begins, part.astype(np.int64), ends])
            tokens[row, at : at + len(part)] = part
            documents[row, at : at + len(part)] = number
            at += len(part)
    return torch.from_numpy(tokens), torch.from_numpy(documents)
