"""Documents placed whole into sequences.

Best-fit-decreasing packing of Ding et al., "Fewer truncations improve language modeling" (2024):
from the longest to the shortest, a document goes where the least room is left that holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_core.data.compiled import compiled
from megatron_core.data.datasets.fingerprints import Arrays, IndexCache
from megatron_core.data.datasets.spans import DocumentSpan
from megatron_core.data.indexed import IndexedDataset, idx_path

_VERSION = 1  # of the algorithm; another one makes other sequences of the same documents


class PackedDocuments:
    """Sequences of at most ``capacity`` tokens, each of whole documents of one source.

    A document longer than that is cut. Its pieces share ``shared`` tokens, so that with one of
    them none of its predictions is lost. Within a sequence documents keep their order; what room
    is left is padding.
    """

    def __init__(
        self,
        streams: Mapping[str, IndexedDataset],
        capacity: int,
        *,
        shared: int = 1,
        frame: int = 0,
        cache: IndexCache | None = None,
    ) -> None:
        """
        Args:
            streams: By source.
            capacity: Tokens of a sequence.
            shared: Tokens that two pieces of a document share.
            frame: Room that each piece takes beside its tokens.
            cache: Keeps the packing.
        """
        self._packed = {
            name: (cache or IndexCache(None)).load(
                "packed", [idx_path(stream.prefix)],
                {"version": _VERSION, "capacity": capacity, "shared": shared, "frame": frame},
                lambda stream=stream: _pack(stream, capacity, shared, frame),  # type: ignore[misc]
            )
            for name, stream in streams.items()
        }  # fmt: skip
        self.counts = {name: len(arrays["starts"]) - 1 for name, arrays in self._packed.items()}

    def spans(self, source: str, item: int) -> list[DocumentSpan]:
        """What sequence ``item`` of ``source`` is made of."""
        packed = self._packed[source]
        start, stop = (int(edge) for edge in packed["starts"][item : item + 2])
        pieces = zip(packed["first"][start:stop], packed["tokens"][start:stop], strict=True)
        return [DocumentSpan(source, int(first), int(tokens)) for first, tokens in pieces]


def _pack(stream: IndexedDataset, capacity: int, shared: int, frame: int) -> Arrays:
    """Pieces by sequence: ``first`` token and ``tokens`` of each; where sequences ``starts``."""
    lengths = np.array(stream.lengths, dtype=np.int64)
    starts = np.array(stream.offsets, dtype=np.int64) // stream.dtype.itemsize
    first, tokens = cut_documents(starts, lengths, capacity - frame, shared)
    sequence = best_fit(tokens + frame, capacity)
    order = np.argsort(sequence, kind="stable")
    counts = np.bincount(sequence)
    return {
        "first": first[order],
        "tokens": tokens[order].astype(np.int32),
        "starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    }


def cut_documents(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], longest: int, shared: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pieces of documents, in their order: first token and number of tokens of each.

    All but the last piece of a document have ``longest`` tokens; two neighbours share ``shared``.
    """
    stride = longest - shared
    pieces = np.maximum(-(-(lengths - shared) // stride), lengths > 0)
    owner = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(owner)) - (np.cumsum(pieces) - pieces)[owner]
    return (
        starts[owner] + number * stride,
        np.minimum(lengths[owner] - number * stride, longest),
    )


def best_fit(sizes: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """The bin of each item, bins numbered as they are opened.

    Items go from the largest to the smallest, equal ones by number, each into the bin with the
    least room that holds it; of equal bins into the one used last, and if there is none into a new
    one. At most 11/9 of the fewest bins and a constant (Johnson, 1973).

    Args:
        sizes: int64 ``[items]``, from 1 to ``capacity``.
        capacity: Of a bin.
    """
    # Of the narrowest type, since numpy sorts 16 bits in linear time.
    room = (capacity - sizes).astype(np.min_scalar_type(capacity))
    order = np.argsort(room, kind="stable")
    bins = np.empty(len(sizes), dtype=np.int64)
    bins[order] = _place(sizes[order], capacity)
    return bins


@compiled
def _place(sizes: Any, capacity: int) -> Any:
    """Bins of items in their order: logarithmic in ``capacity`` for each item.

    Bins with the same room are a linked list; a binary tree counts the bins by room.
    """
    leaves = 1
    while leaves <= capacity:
        leaves *= 2
    below = np.zeros(2 * leaves, dtype=np.int64)
    newest = np.full(capacity + 1, -1, dtype=np.int64)
    older = np.empty(len(sizes), dtype=np.int64)
    bins = np.empty(len(sizes), dtype=np.int64)
    opened = 0
    for item in range(len(sizes)):
        size = sizes[item]
        room = _least_room(below, leaves, size)
        if room < 0:
            room, bin = capacity, opened
            opened += 1
        else:
            bin = newest[room]
            newest[room] = older[bin]
            _count(below, leaves + room, -1)
        left = room - size
        older[bin] = newest[left]
        newest[left] = bin
        _count(below, leaves + left, 1)
        bins[item] = bin
    return bins


@compiled
def _least_room(below: Any, leaves: int, size: int) -> int:
    """The smallest room of at least ``size`` that a bin has; -1 when none has."""
    node = leaves + size
    if below[node] == 0:
        # Up to the first sibling on the right with bins, then down to its leftmost.
        while node > 1 and (node % 2 == 1 or below[node + 1] == 0):
            node //= 2
        if node <= 1:
            return -1
        node += 1
        while node < leaves:
            node *= 2
            if below[node] == 0:
                node += 1
    return node - leaves


@compiled
def _count(below: Any, node: int, change: int) -> None:
    while node > 0:
        below[node] += change
        node //= 2
