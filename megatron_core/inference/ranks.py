"""Work on sequences, spread over the data ranks of a mesh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch.distributed as dist

from megatron_core.collectives import peers
from megatron_core.parallel.mesh import Mesh

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(
    mesh: Mesh, items: Sequence[Item], work: Callable[[Sequence[Item]], list[Result]]
) -> list[Result]:
    """The result of ``work`` on each item, on every rank.

    Each data rank takes every so manieth item; ranks that share a model's tensors take the same.
    ``work`` must give the same for an item whatever is beside it.
    """
    ranks = mesh.layout.data
    if ranks == 1:
        return work(items)
    mine = work(items[mesh.data_rank :: ranks])
    gathered: list[list[Result]] = [[] for _ in range(ranks)]
    with peers():
        dist.all_gather_object(gathered, mine, group=mesh.groups["data"])
    return [gathered[number % ranks][number // ranks] for number in range(len(items))]
