"""The balanced binary tree over shard numbers that every cross-shard sum follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

Addable = TypeVar("Addable", float, Tensor)


def tree_sum(parts: Sequence[Addable]) -> Addable:
    """Sum ``parts``, a power of two of them, as ``((0 + 1) + (2 + 3)) + …``.

    An aligned block of parts sums to a node of the same tree, whoever owns the block.
    """
    level = list(parts)
    if not level or len(level) & (len(level) - 1):
        raise ValueError(f"a balanced tree needs a power of two of parts, not {len(level)}")
    while len(level) > 1:
        level = [level[i] + level[i + 1] for i in range(0, len(level), 2)]
    return level[0]


class TreeAccumulator:
    """``tree_sum`` of buffers that arrive one after another, holding at most log2 + 1 of them.

    A binary counter: two finished subtrees of one height merge into one of the next.
    """

    def __init__(self) -> None:
        self._subtrees: list[tuple[int, Tensor]] = []

    def push(self, buffer: Tensor) -> None:
        """Take the next part; it belongs to the accumulator from now on and may be changed."""
        height = 0
        while self._subtrees and self._subtrees[-1][0] == height:
            _, left = self._subtrees.pop()
            buffer = left.add_(buffer)
            height += 1
        self._subtrees.append((height, buffer))

    def total(self) -> Tensor:
        """The sum, once a power of two of parts was pushed."""
        if len(self._subtrees) != 1:
            raise ValueError("the tree is incomplete: the parts pushed are not a power of two")
        return self._subtrees[0][1]
