"""The fourth pass: which candidates are alike enough, a partition at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from megatron_core.config import DedupConfig
from megatron_core.data.compiled import compiled
from megatron_core.data.dedup.clusters import find
from megatron_core.data.dedup.corpus import Corpus, Numbers, batches, load, save
from megatron_core.data.dedup.texts import read_arrays, sizes_of

SHINGLES = 1 << 23  # held at a time: 64 MB


def compare_candidates(partition: int, corpus: Corpus, config: DedupConfig) -> None:
    """Write ``alike`` [pairs, 2]: enough pairs of near candidates with a Jaccard similarity of
    ``config.min_jaccard`` or more to connect all that such pairs connect within a group.

    Of a group's members, which are in the order of their keys, each is compared with the first
    ``config.max_compared``.
    """
    folder = corpus.place("candidates", partition)
    members, sizes = load(folder, "members"), load(folder, "sizes")
    candidates = load(folder, "candidates")
    places = np.searchsorted(candidates, members)
    costs = sizes_of(corpus, "shingles", candidates)[places]
    alike = [np.empty((0, 2), dtype=np.int64)]
    for batch in _batches_of_pieces(sizes, costs, config.max_compared):
        chosen = np.concatenate([piece for piece, _ in batch])
        numbers, local = np.unique(places[chosen], return_inverse=True)
        shingles, bounds = read_arrays(corpus, "shingles", candidates[numbers])
        counts = np.array([(len(piece), first) for piece, first in batch])
        pairs = _join(local, counts, shingles, bounds, config.min_jaccard)
        alike.append(candidates[numbers[pairs]])
    save(corpus.place("alike", partition), alike=np.concatenate(alike))


Piece = tuple[Numbers, int]  # places of members, and how many of them all others are compared with


def _batches_of_pieces(sizes: Numbers, costs: Numbers, max_compared: int) -> Iterator[list[Piece]]:
    """Runs of pieces whose members have ``SHINGLES`` in all, or of one piece."""
    batch: list[Piece] = []
    spent = 0
    start = 0
    for size in sizes.tolist():
        for piece, compared in _pieces(costs[start : start + size], max_compared):
            cost = int(costs[start + piece].sum())
            if batch and spent + cost > SHINGLES:
                yield batch
                batch, spent = [], 0
            batch.append((start + piece, compared))
            spent += cost
        start += size
    if batch:
        yield batch


def _pieces(costs: Numbers, max_compared: int) -> Iterator[Piece]:
    """A group cut so that the shingles of each piece fit into memory: its first members, with
    which all are compared, and a run of the others."""
    first = min(len(costs), max_compared)
    if first == len(costs):
        yield np.arange(first), first
        return
    for run in batches(costs[first:], SHINGLES // 2):
        yield np.append(np.arange(first), np.arange(first + run.start, first + run.stop)), first


@compiled
def _join(
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
                if find(parent, i) == find(parent, j):
                    continue
                one, other = members[start + i], members[start + j]
                if _jaccard(shingles, bounds, one, other) >= min_jaccard:
                    parent[find(parent, i)] = find(parent, j)
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
