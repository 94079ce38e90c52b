"""Sets that are joined, and how alike their members are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megatron_core.data.compiled import compiled
from megatron_core.data.dedup.corpus import Numbers


@compiled
def _find(parent: Numbers, item: int) -> int:
    """The root of ``item``'s set (union-find with path halving)."""
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


@compiled
def join(parent: Numbers, pairs: Numbers) -> None:
    """Make one set of the two sets of each of ``pairs``; its root is the smallest member."""
    for n in range(len(pairs)):
        one, other = _find(parent, pairs[n, 0]), _find(parent, pairs[n, 1])
        parent[max(one, other)] = min(one, other)


@compiled
def flatten(parent: Numbers) -> None:
    """Make every item point to the root of its set."""
    for item in range(len(parent)):
        parent[item] = _find(parent, item)


@compiled
def join_alike(
    members: Numbers,
    counts: Numbers,
    shingles: NDArray[np.uint64],
    bounds: Numbers,
    min_jaccard: float,
) -> Numbers:
    """Pairs of ``members`` that connect the members of each piece; ``counts`` [pieces, 2] are the
    sizes of a piece and of its part that all are compared with."""
    pairs = np.empty((len(members), 2), dtype=np.int64)
    found = start = 0
    for size, compared in counts:
        parent = np.arange(size)
        for i in range(1, size):
            for j in range(min(i, compared)):
                if _find(parent, i) == _find(parent, j):
                    continue
                one, other = members[start + i], members[start + j]
                if _jaccard(shingles, bounds, one, other) >= min_jaccard:
                    parent[_find(parent, i)] = _find(parent, j)
                    pairs[found, 0], pairs[found, 1] = one, other
                    found += 1
        start += size
    return pairs[:found].copy()


@compiled
def _jaccard(shingles: NDArray[np.uint64], bounds: Numbers, one: int, other: int) -> float:
    """Of two ascending arrays of distinct shingles."""
    i, i_end, j, j_end = bounds[one], bounds[one + 1], bounds[other], bounds[other + 1]
    total = i_end - i + j_end - j
    shared = 0
    while i < i_end and j < j_end:
        left, right = shingles[i], shingles[j]
        shared += left == right
        i += left <= right
        j += right <= left
    return float(shared / (total - shared))


@compiled
def similarities(
    shingles: NDArray[np.uint64], bounds: Numbers, pairs: Numbers
) -> NDArray[np.float64]:
    """The Jaccard similarity of each of ``pairs`` [n, 2] of arrays, as :func:`read_arrays` gives
    them: [n]."""
    found = np.empty(len(pairs), dtype=np.float64)
    for n in range(len(pairs)):
        found[n] = _jaccard(shingles, bounds, pairs[n, 0], pairs[n, 1])
    return found
