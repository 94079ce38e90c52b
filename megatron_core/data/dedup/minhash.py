"""MinHash signatures and locality-sensitive bands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from megatron_core.config import DedupConfig
from megatron_core.data.words import ngram_hashes

_BLOCK = 4096  # shingles hashed at a time: 4096 × 112 hashes × 8 bytes is 3.7 MB


@dataclass(frozen=True)
class MinHash:
    """Signatures whose values agree, each with a probability that is the Jaccard similarity.

    A. Broder, "On the resemblance and containment of documents", 1997; banding as in Leskovec,
    Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4. The hash family is
    multiply-shift, h(x) = (a·x + b mod 2^64) >> 32, strongly universal on 32-bit x
    (M. Dietzfelbinger, "Universal hashing and k-wise independent random variables via integer
    arithmetic without primes", 1996): exact in 64-bit arithmetic, as a Mersenne prime is not.

    ``multipliers`` and ``offsets`` are uint64 of shape [buckets · hashes_per_bucket].
    """

    multipliers: NDArray[np.uint64]
    offsets: NDArray[np.uint64]
    buckets: int
    ngram: int

    @classmethod
    def of(cls, config: DedupConfig) -> MinHash:
        """The hash functions that ``config`` names by its seed."""
        count = config.buckets * config.hashes_per_bucket
        # A keyed hash of the number, not a generator whose stream a release may change.
        draws = [
            np.array(
                [xxhash.xxh3_64_intdigest(f"{name}/{i}", config.seed) for i in range(count)],
                dtype=np.uint64,
            )
            for name in ("multiplier", "offset")
        ]
        return cls(draws[0], draws[1], config.buckets, config.ngram)

    def signature(self, shingles: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """The smallest value of every hash function over ``shingles`` [n]: [hashes] uint32."""
        high = np.unique(shingles >> np.uint64(32))
        smallest = np.full(len(self.multipliers), np.iinfo(np.uint64).max)
        for start in range(0, len(high), _BLOCK):
            block = high[start : start + _BLOCK, None]
            values = block * self.multipliers + self.offsets
            np.minimum(smallest, values.min(axis=0), out=smallest)
        # The shift keeps the order, so it may follow the minimum.
        return (smallest >> np.uint64(32)).astype(np.uint32)

    def bands(self, words: list[str]) -> NDArray[np.uint64]:
        """One hash per bucket: documents that share one are candidates. [buckets] uint64."""
        rows = self.signature(ngram_hashes(words, self.ngram)).reshape(self.buckets, -1)
        return np.array([xxhash.xxh3_64_intdigest(row.tobytes()) for row in rows], dtype=np.uint64)


def candidate_groups(bands: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """The documents that share a band's hash: [documents, buckets] to ascending row numbers,
    bucket after bucket, two or more to a group."""
    for column in bands.T:
        order = np.argsort(column, kind="stable")
        cuts = np.flatnonzero(np.diff(column[order])) + 1
        for group in np.split(order, cuts):
            if len(group) > 1:
                yield group


def jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    """Jaccard similarity of two sorted arrays of distinct shingles."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
