"""MinHash signatures and the bands in which they are compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_core.config import DedupConfig
from megatron_core.data.compiled import compiled
from megatron_core.data.xxh64 import hash_slices

_PRIME = (1 << 61) - 1  # Mersenne's ninth


@dataclass(frozen=True)
class MinHash:
    """Signatures whose values agree, each with a probability that is the Jaccard similarity.

    A. Broder, "On the resemblance and containment of documents", 1997; banding as in Leskovec,
    Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4. The hash family is that of
    datatrove, h(x) = ((a·x + b) mod 2^64) mod (2^61 - 1) with a and b from NumPy's frozen
    generator, so the signatures of the same words are the same.

    ``multipliers`` and ``offsets`` are uint64 [buckets · hashes_per_bucket].
    """

    multipliers: NDArray[np.uint64]
    offsets: NDArray[np.uint64]
    buckets: int

    @classmethod
    def of(cls, config: DedupConfig) -> MinHash:
        """The hash functions that ``config`` names by its seed."""
        count = config.buckets * config.hashes_per_bucket
        draw = np.random.RandomState(config.seed).randint
        multipliers = draw(1, _PRIME, dtype=np.uint64, size=count)
        offsets = draw(0, _PRIME, dtype=np.uint64, size=count)
        return cls(multipliers, offsets, config.buckets)

    def signature(self, shingles: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The smallest value of every hash function over ``shingles`` [n]: uint64 [hashes]."""
        return _smallest(shingles, self.multipliers, self.offsets)

    def bands(self, shingles: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The 64-bit xxHash of each bucket's values, uint64 [buckets]: documents that share one
        are candidates."""
        values = self.signature(shingles).view(np.uint8)
        bounds = np.arange(self.buckets + 1) * (len(values) // self.buckets)
        return hash_slices(values, bounds[:-1], bounds[1:])


@compiled
def _smallest(
    shingles: NDArray[np.uint64], multipliers: NDArray[np.uint64], offsets: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    prime = np.uint64(_PRIME)
    smallest = np.empty(len(multipliers), dtype=np.uint64)
    for k in range(len(multipliers)):
        multiplier, offset = multipliers[k], offsets[k]
        best = np.int64(_PRIME)
        for i in range(len(shingles)):
            value = shingles[i] * multiplier + offset
            # 2^61 is 1 modulo the prime. Signed, since AVX2 compares no unsigned numbers.
            folded = np.int64((value & prime) + (value >> np.uint64(61)))
            folded = folded - np.int64(prime) if folded >= np.int64(prime) else folded
            best = min(best, folded)
        smallest[k] = best
    return smallest
