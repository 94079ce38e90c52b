"""Data order as a pure function of (seed, sample number).

No generator state and no list of indices: resuming needs one integer, and neither workers nor
ranks nor the length of the training change which sample comes when.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

_ROUNDS = 6  # of the Feistel network; 4 already mix well (Luby and Rackoff, 1988)


def permute(index: int, size: int, key: str) -> int:
    """Where ``index`` goes under the permutation of ``range(size)`` that ``key`` names.

    A balanced Feistel network on the next even power of two, walked until it falls inside
    (Black and Rogaway, 2002). O(1) in time and memory, for any size.
    """
    if not 0 <= index < size:
        raise ValueError(f"index {index} is outside range({size})")
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    while True:
        index = _feistel(index, half, key)
        if index < size:
            return index


def _feistel(index: int, half: int, key: str) -> int:
    mask = (1 << half) - 1
    left, right = index >> half, index & mask
    for round_number in range(_ROUNDS):
        digest = hashlib.blake2b(f"{key}:{round_number}:{right}".encode(), digest_size=8).digest()
        left, right = right, left ^ (int.from_bytes(digest, "little") & mask)
    return left << half | right


class Mixture:
    """Interleaves sources: sample number to (source, item).

    One epoch takes ``round(weight × items)`` items of each source, in an order of its own;
    a weight of 2 passes over a source twice per epoch, one of 0.5 takes half of it in one epoch
    and the other half in the next.
    """

    def __init__(self, items: Mapping[str, int], weights: Mapping[str, float], seed: int) -> None:
        self.seed = seed
        self.items = {name: items[name] for name in weights}
        self.taken = {name: max(1, round(weights[name] * items[name])) for name in weights}
        self.epoch_size = sum(self.taken.values())

    def locate(self, sample: int) -> tuple[str, int]:
        """Source and item of global sample number ``sample``, counted from 0."""
        epoch, slot = divmod(sample, self.epoch_size)
        slot = permute(slot, self.epoch_size, f"{self.seed}:epoch:{epoch}")
        for name, taken in self.taken.items():
            if slot < taken:
                turn, item = divmod(epoch * taken + slot, self.items[name])
                return name, permute(item, self.items[name], f"{self.seed}:{name}:{turn}")
            slot -= taken
        raise AssertionError("unreachable: the slots cover the epoch")
