"""Tree sums between ranks: collectives move the data, every addition is local."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_core.collectives.peers import peers
from megatron_core.collectives.tree import tree_sum

# Slices start on multiples of this many elements: 64 bytes of fp32, a full vector register.
_ALIGNMENT = 16


def exchange_sum(buffer: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The tree sum over the ranks of ``group`` of each one's ``buffer [n]``, on every rank.

    An all-to-all hands each rank one slice of every buffer, it sums the slices by the tree, and
    an all-gather brings the sums together. Without a group the buffer is returned as it is.
    """
    if group is None or dist.get_world_size(group) == 1:
        return buffer
    ranks = dist.get_world_size(group)
    count = buffer.numel()
    chunk = -(-count // (ranks * _ALIGNMENT)) * _ALIGNMENT
    padded = buffer.new_zeros(ranks * chunk)
    padded[:count] = buffer
    received = torch.empty_like(padded)
    with peers():
        dist.all_to_all_single(received, padded, group=group)
        mine = tree_sum(list(received.view(ranks, chunk).unbind()))
        dist.all_gather_single(padded, mine.contiguous(), group=group)
    return padded[:count]


def gather_numbers(numbers: Sequence[float], group: dist.ProcessGroup | None) -> list[float]:
    """Every rank's ``numbers``, equally many on each, in the order of the ranks; fp64."""
    if group is None or dist.get_world_size(group) == 1:
        return list(numbers)
    device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    mine = torch.tensor(numbers, dtype=torch.float64, device=device)
    gathered = mine.new_empty(dist.get_world_size(group) * len(mine))
    with peers():
        dist.all_gather_single(gathered, mine, group=group)
    return [float(x) for x in gathered]
