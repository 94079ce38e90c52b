"""The fourth pass: which candidates are alike enough, a partition at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from megatron_core.config import DedupConfig
from megatron_core.data.dedup.corpus import Corpus, Numbers, batches, load, save
from megatron_core.data.dedup.graph import join_alike
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
        pairs = join_alike(local, counts, shingles, bounds, config.min_jaccard)
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
