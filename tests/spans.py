"""Layers over the shards of a grid dimension, computed by ranks that share them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kernels.registry import Kernels
from megatron_core.collectives import Span
from megatron_core.parallel.launch import joined_ranks
from tests.ranks import run_ranks

# By name what each local shard, slice or chunk gave.
Parts = dict[str, list[Tensor]]
Case = Callable[[Span], Parts]

SHARDS = 4


def normal(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draws that are a function of ``name`` and shape."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator).to(dtype)


def over_ranks(
    cases: Mapping[str, Case], ranks: int, folder: Path, kind: type[Span] = Span
) -> dict[str, Parts]:
    """What each case gives when ``ranks`` ranks share its shards: all parts, in their order."""
    assert run_ranks(_work, ranks, dict(cases), kind, folder) == [0] * ranks
    found = [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]
    return {
        case: {name: [part for f in found for part in f[case][name]] for name in found[0][case]}
        for case in cases
    }


def _work(cases: dict[str, Case], kind: type[Span], folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = joined_ranks() or 1
    span = kind(SHARDS)
    if ranks > 1:
        dist.init_process_group("gloo")
        span = kind(SHARDS, ranks, dist.get_rank(), dist.group.WORLD)
    found = {name: case(span) for name, case in cases.items()}
    torch.save(found, folder / f"{span.rank}.pt")
    if ranks > 1:
        dist.destroy_process_group()


class Leaf:
    """Sums weight gradients in fp32 as a leaf of the engine does, by parameter and slice."""

    def __init__(self) -> None:
        self.sums: dict[tuple[nn.Parameter, int], Tensor] = {}

    def linear(
        self, weight: nn.Parameter, gradient: Tensor, x: Tensor, kernels: Kernels, source: int = 0
    ) -> None:
        kernels.add_weight_gradient(self._sum(weight, source), gradient, x)

    def add(self, weight: nn.Parameter, gradient: Tensor, slice: int = 0) -> None:
        self._sum(weight, slice).add_(gradient)

    def accumulate(self, weight: nn.Parameter, add: Callable[[Tensor], None]) -> None:
        add(self._sum(weight, 0))

    def _sum(self, weight: nn.Parameter, variant: int) -> Tensor:
        if (weight, variant) not in self.sums:
            self.sums[weight, variant] = torch.zeros(weight.shape)
        return self.sums[weight, variant]
