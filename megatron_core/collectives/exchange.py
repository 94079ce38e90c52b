"""Sums and copies of flat buffers between ranks: collectives move data, every sum is local."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.distributed as dist
from torch import Tensor

from megatron_core.collectives.peers import peers
from megatron_core.collectives.tree import tree_sum


class CutSum:
    """The tree sum over the ranks of a group of each one's ``buffer``, cut among them.

    Begins an all-to-all that hands every rank its cut of all buffers; ``wait`` adds them.
    """

    def __init__(
        self, buffer: Tensor, bounds: Sequence[int], group: dist.ProcessGroup | None
    ) -> None:
        """Begin. Rank ``r`` gets ``buffer[bounds[r]:bounds[r + 1]]``; without a group, all."""
        self._buffer, self._work = buffer, None
        self._ranks = 1 if group is None else dist.get_world_size(group)
        if group is None or self._ranks == 1:
            return
        sizes = [stop - start for start, stop in pairwise(bounds)]
        mine = sizes[dist.get_rank(group)]
        self._received = buffer.new_empty(self._ranks * mine)
        with peers():
            self._work = dist.all_to_all_single(
                self._received, buffer[bounds[0] : bounds[-1]],
                [mine] * self._ranks, sizes, group=group, async_op=True,
            )  # fmt: skip

    def wait(self) -> Tensor:
        """This rank's cut of the sum."""
        if self._work is None:
            return self._buffer
        with peers():
            self._work.wait()
        return tree_sum(list(self._received.chunk(self._ranks)))


def share_cuts(
    buffer: Tensor, bounds: Sequence[int], owners: Sequence[int], group: dist.ProcessGroup | None
) -> None:
    """Fill ``buffer`` from the ranks of ``group``: cut ``i`` from number ``owners[i]``."""
    if group is None:
        return
    with peers():
        works = [
            dist.broadcast(buffer[start:stop], group=group, group_src=owner, async_op=True)
            for owner, (start, stop) in zip(owners, pairwise(bounds), strict=True)
            if start < stop
        ]
        for work in works:
            work.wait()


def merge(numbers: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Put together ``numbers`` of which each rank filled some and left the others 0.

    Adding zeros is exact, whatever the order; overlapping entries may be integers alone.
    """
    if group is not None:
        with peers():
            dist.all_reduce(numbers, group=group)
    return numbers
