"""Data order as a pure function of (seed, sample number).

No generator state and no list of indices: resuming needs one integer, and neither workers nor
ranks nor the length of the training change which sample comes when.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from megatron_core.errors import CorpusError

if TYPE_CHECKING:  # spans are read into tensors, and permuting needs none
    from megatron_core.data.datasets.spans import DocumentSpan, Sequences

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
        # By name, since a recipe's identity does not know in what order it names the sources.
        self.items = {name: items[name] for name in sorted(weights)}
        self.taken = {name: max(1, round(weights[name] * n)) for name, n in self.items.items()}
        self.epoch_size = sum(self.taken.values())

    def item(self, sample: int) -> tuple[str, int]:
        """Source and item of global sample number ``sample``, counted from 0."""
        epoch, slot = divmod(sample, self.epoch_size)
        slot = permute(slot, self.epoch_size, f"{self.seed}:epoch:{epoch}")
        for name, taken in self.taken.items():
            if slot < taken:
                turn, item = divmod(epoch * taken + slot, self.items[name])
                return name, permute(item, self.items[name], f"{self.seed}:{name}:{turn}")
            slot -= taken
        raise AssertionError("unreachable: the slots cover the epoch")


class MixedOrder:
    """The sequences of several sources in the order of a mixture."""

    def __init__(self, sequences: Sequences, weights: Mapping[str, float], seed: int) -> None:
        """
        Args:
            sequences: Those of every source.
            weights: Passes over each source per epoch; empty takes every source once.
            seed: Of the recipe.

        Raises:
            CorpusError: a named source is missing or fills no sequence.
        """
        self.sequences = sequences
        wanted = dict(weights) or {name: 1.0 for name, n in sequences.counts.items() if n}
        self.mixture = Mixture(sequences.counts, require_sources(wanted, sequences.counts), seed)

    def locate(self, sample: int) -> list[DocumentSpan]:
        """What global sample number ``sample``, counted from 0, is made of, in its order."""
        return self.sequences.spans(*self.mixture.item(sample))


def require_sources(weights: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, float]:
    """``weights``, when each of their sources has sequences and there is one at all.

    Raises:
        CorpusError: a named source is missing or fills no sequence.
    """
    advice = "ingest more text or lower sequence_length"
    for name in weights:
        if not counts.get(name):
            problem = "fills no sequence" if name in counts else "has no tokens"
            raise CorpusError(f"source {name} {problem}: {advice}")
    if not weights:
        raise CorpusError(f"no source fills a sequence: {advice}")
    return dict(weights)


def spread(sequences: Sequences, count: int) -> list[list[DocumentSpan]]:
    """At most ``count`` sequences, evenly over the sources and along each: a fixed sample."""
    total = sum(sequences.counts.values())
    count = min(count, total)
    chosen = [i * total // count for i in range(count)]
    found = []
    for name, size in sequences.counts.items():
        found += [sequences.spans(name, item) for item in chosen if 0 <= item < size]
        chosen = [item - size for item in chosen]
    return found
