"""Attention over sequences that follow one another in the row of tokens.

Every sequence is attended to alone, at its own length, so that the others change no bit of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.attention import attention


@dataclass(frozen=True)
class Apart:
    """Sequences of the given lengths from the row's beginning; what follows them is padding."""

    lengths: Sequence[int]
    window: int | None = None

    def attend(self, layer: int, shard: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As ``SequenceAttention`` says."""
        mixed, start = torch.zeros_like(query), 0
        for length in self.lengths:
            part = slice(start, start + length)
            mixed[part] = attention(
                query[part], key[part], value[part], causal=True, window=self.window
            )
            start += length
        return mixed


class Cache:
    """Keys and values of the tokens that some sequences have had, each in a slot of its own.

    A row of tokens either begins one sequence (``begin``) or takes each of all slots one token
    further (``advance``); that is said first, and each layer then finds its own. Memory is taken
    when a layer first comes, for all slots: ``2 · layers · slots · capacity · kv_heads · size``
    elements over the tensor ranks.

    Attributes:
        lengths: Tokens that each slot holds; 0 for a slot without a sequence.
    """

    def __init__(self, slots: int, capacity: int, window: int | None = None) -> None:
        """
        Args:
            slots: Sequences at a time.
            capacity: Tokens that a slot can hold.
            window: Newest keys that a query sees; None is all.
        """
        self.slots, self.capacity, self.window = slots, capacity, window
        self.lengths = [0] * slots
        self._held: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._row: list[tuple[int | None, int]] = []  # slot and tokens, in the order of the row

    def begin(self, slot: int, length: int) -> None:
        """The row is the first ``length`` tokens of a new sequence in ``slot``, then padding."""
        self.lengths[slot] = length
        self._row = [(slot, length)]

    def advance(self, slots: Sequence[int | None]) -> None:
        """The row is one more token of each of ``slots``; where there is None it is padding."""
        for slot in slots:
            if slot is not None:
                self.lengths[slot] += 1
        self._row = [(slot, 1) for slot in slots]

    def free(self, slot: int) -> None:
        """Forget the sequence in ``slot``."""
        self.lengths[slot] = 0

    def attend(self, layer: int, shard: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As ``SequenceAttention`` says; keeps ``key`` and ``value``."""
        if (layer, shard) not in self._held:
            shape = self.slots, self.capacity, *key.shape[2:]
            self._held[layer, shard] = key.new_empty(shape), value.new_empty(shape)
        keys, values = self._held[layer, shard]
        mixed, start = torch.zeros_like(query), 0
        for slot, length in self._row:
            part = slice(start, start := start + length)
            if slot is None:
                continue
            end = self.lengths[slot]
            keys[slot, end - length : end] = key[part, 0]
            values[slot, end - length : end] = value[part, 0]
            if end > length:
                mixed[part] = self._last(query[part], keys[slot, :end], values[slot, :end])
            else:
                mixed[part] = attention(
                    query[part], key[part], value[part], causal=True, window=self.window
                )
        return mixed

    def _last(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Of one token ``[1, 1, heads, size]``, which sees all that is held, or its window.

        The query heads that share a key head stand in for a sequence, so that no key is copied.
        """
        if self.window is not None:
            keys, values = keys[-self.window :], values[-self.window :]
        grouped = query.view(keys.shape[1], -1, query.shape[-1]).transpose(0, 1)
        mixed = attention(grouped[:, None], keys[:, None], values[:, None], causal=False)
        return mixed[:, 0].transpose(0, 1).reshape(query.shape)
