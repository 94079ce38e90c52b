"""The second pass: which documents agree in a bucket, a range of hashes at a time."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from megatron_core.data.dedup.corpus import Corpus, Numbers, load, save


def find_candidates(partition: int, corpus: Corpus) -> None:
    """Write the documents that share a hash of this partition's range in some bucket.

    ``copies`` [pairs, 2] have the same words. ``members`` are the near candidates, group after
    group, those of one group in the order of their keys, and ``sizes`` says how many each group
    has. ``candidates`` and ``named`` are the numbers that occur, ascending: among the groups, and
    in either.
    """
    low, high = ((bound << 64) // corpus.partitions for bound in (partition, partition + 1))
    read = partial(_read_range, corpus, low=low, high=high)
    rows = load(corpus.place("signatures", 0), "bands").shape[0]
    copies = _equal_texts(corpus, *read(0))
    groups = [_near_groups(corpus, *read(row)) for row in range(1, rows)]
    members = np.concatenate([found for found, _ in groups])
    candidates = np.unique(members)
    save(
        corpus.place("candidates", partition),
        copies=copies,
        members=members,
        sizes=np.concatenate([sizes for _, sizes in groups]),
        candidates=candidates,
        named=np.union1d(copies, candidates),
    )


def _read_range(
    corpus: Corpus, row: int, low: int, high: int
) -> tuple[NDArray[np.uint64], Numbers]:
    """The hashes of one row of ``bands`` with low <= hash < high that occur more than once, and
    the documents that have them; in the order of the hashes."""
    found, owners = [], []
    for shard, first in enumerate(corpus.firsts[:-1]):
        folder = corpus.place("signatures", shard)
        hashes = load(folder, "bands")[row]
        # No uint64 is the end of the last range.
        start = int(np.searchsorted(hashes, np.uint64(low)))
        end = len(hashes) if high >> 64 else int(np.searchsorted(hashes, np.uint64(high)))
        found.append(hashes[start:end])
        owners.append(load(folder, "places")[row, start:end] + first)
    hashes, numbers = np.concatenate(found), np.concatenate(owners)
    order = np.argsort(hashes, kind="stable")
    hashes, numbers = hashes[order], numbers[order]
    again = hashes[1:] == hashes[:-1]
    shared = np.append(again, False) | np.insert(again, 0, False)
    return hashes[shared], numbers[shared]


def _by_key(
    corpus: Corpus, hashes: NDArray[np.uint64], numbers: Numbers
) -> tuple[NDArray[np.uint64], Numbers, NDArray[np.bool_]]:
    """Sort the documents of each hash by their keys, then numbers; and which differ from the
    one before."""
    keys = corpus.gather("keys", numbers)
    order = np.lexsort((numbers, keys[:, 1], keys[:, 0], hashes))
    hashes, numbers, keys = hashes[order], numbers[order], keys[order]
    new = np.ones(len(numbers), dtype=np.bool_)
    new[1:] = (hashes[1:] != hashes[:-1]) | (keys[1:] != keys[:-1]).any(axis=1)
    return hashes, numbers, new


def _equal_texts(corpus: Corpus, hashes: NDArray[np.uint64], numbers: Numbers) -> Numbers:
    """[first, other] for each document of another shard with the same words: [pairs, 2]."""
    _, numbers, new = _by_key(corpus, hashes, numbers)
    first = numbers[np.flatnonzero(new)[np.cumsum(new) - 1]]
    return np.stack([first, numbers], axis=1)[~new]


def _near_groups(
    corpus: Corpus, hashes: NDArray[np.uint64], numbers: Numbers
) -> tuple[Numbers, Numbers]:
    """Members and sizes of the groups of two texts or more; of equal texts only the first."""
    hashes, numbers, new = _by_key(corpus, hashes, numbers)
    _, groups, sizes = np.unique(hashes[new], return_inverse=True, return_counts=True)
    return numbers[new][sizes[groups] > 1], sizes[sizes > 1].astype(np.int64)
