"""One dimension of the grid: its shards, those computed here, and the ranks with the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_core.collectives.peers import peers
from megatron_core.collectives.tree import tree_sum


@dataclass(frozen=True)
class Span:
    """An aligned block of the ``shards`` of a grid dimension, rank ``rank`` of ``ranks``.

    The methods move data between the ranks and add locally, by the tree. With one rank they
    return what they were given.
    """

    shards: int = 1
    ranks: int = 1
    rank: int = 0
    group: dist.ProcessGroup | None = None

    @property
    def local(self) -> range:
        """The shards computed here."""
        block = self.shards // self.ranks
        return range(self.rank * block, (self.rank + 1) * block)

    def gather(self, x: Tensor) -> Tensor:
        """Every rank's ``x [n, …]``, concatenated along the first dimension."""
        if self.ranks == 1:
            return x
        gathered = x.new_empty(self.ranks * x.shape[0], *x.shape[1:])
        with peers():
            dist.all_gather_single(gathered, x.contiguous(), group=self.group)
        return gathered

    def scatter_sum(self, x: Tensor) -> Tensor:
        """The tree sum over ranks of ``x [n, …]``, of which each keeps its part of the first
        dimension.
        """
        if self.ranks == 1:
            return x
        received = torch.empty_like(x, memory_format=torch.contiguous_format)
        with peers():
            dist.all_to_all_single(received, x.contiguous(), group=self.group)
        return tree_sum(list(received.chunk(self.ranks)))

    def sum(self, x: Tensor) -> Tensor:
        """The tree sum over ranks of a small ``x``, whole on each."""
        if self.ranks == 1:
            return x
        return tree_sum(list(self.gather(x[None]).unbind()))

    def maximum(self, x: Tensor) -> Tensor:
        """The largest over ranks, elementwise, of a small ``x``."""
        return x if self.ranks == 1 else self.gather(x[None]).amax(dim=0)


WHOLE = Span()


@dataclass(frozen=True)
class ContextSpan(Span):
    """The chunks that each sequence is computed in.

    Leaves of the tree are ordered ``0, n - 1, 1, n - 2, …`` so that every rank's aligned block
    pairs early chunks with late ones: under a causal mask all have the same work.
    """

    @property
    def chunks(self) -> tuple[int, ...]:
        """The chunks computed here, in the order of their leaves."""
        return tuple(self.chunk(leaf) for leaf in self.local)

    def chunk(self, leaf: int) -> int:
        """The chunk at ``leaf`` of the tree."""
        return self.shards - 1 - leaf // 2 if leaf % 2 else leaf // 2

    def leaf(self, chunk: int) -> int:
        """The leaf that ``chunk`` is at."""
        return 2 * chunk if chunk < (self.shards + 1) // 2 else 2 * (self.shards - 1 - chunk) + 1
