"""What every rank must know of a gradient that lies in pieces with its owners."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from kernels.squared_norm import halving_sum_, squared_norms
from megatron_core.collectives import merge
from megatron_core.model import GridShard
from megatron_core.optimizer import BLOCK
from megatron_core.parallel.bucket import Bucket
from megatron_core.parallel.mesh import Mesh


@dataclass(frozen=True)
class Measured:
    """What all ranks know of a gradient.

    Attributes:
        squares: Squared norm of each grid shard's gradient, by ``tensor/shard`` in order.
        gradients: Checksum of the gradient's bits; empty unless asked for.
        weights: Checksum of the main weights' bits; empty unless asked for.
    """

    squares: dict[str, float]
    gradients: list[int]
    weights: list[int]

    @property
    def norm(self) -> float:
        """The global norm: squares added in the order of the names."""
        # Not ``sum``, which adds floats in another way from Python 3.12 on.
        return math.sqrt(reduce(add, self.squares.values(), 0.0))

    @property
    def nonfinite(self) -> list[str]:
        """Grid shards whose gradient holds an infinity or no number."""
        return [name for name, square in self.squares.items() if not math.isfinite(square)]


def speaks_for(mesh: Mesh, shard: GridShard) -> bool:
    """Whether this rank speaks for ``shard``, which all tensor ranks hold if it is replicated."""
    return shard.axis is not None or mesh.coordinates["tensor"] == 0


def measure(
    buckets: Sequence[Bucket], catalogue: Mapping[str, GridShard], mesh: Mesh, *, checksums: bool
) -> Measured:
    """Squared norms of the gradients of ``buckets``, and checksums of gradients and weights.

    Here a step waits for a GPU, and nowhere else: whether the weights may be changed is decided
    before anything changes them.

    A shard's square is the halving sum of its blocks', which lie with their owners. Called on
    every rank; ``catalogue`` is the whole model's.
    """
    places = {key: place for place, key in enumerate(catalogue)}
    squares = torch.zeros(len(places), dtype=torch.float64, device=mesh.device)
    sums = torch.zeros(2, len(places), dtype=torch.int64, device=mesh.device)
    for bucket in buckets:
        blocks = merge(_block_squares(bucket), bucket.replicas.group)
        if bucket.replicas.own == 0:
            for name, part in bucket.layout.block_ranges.items():
                if speaks_for(mesh, catalogue[name]):
                    squares[places[name]] = halving_sum_(blocks[part.start : part.stop])
        if checksums:
            for run in bucket.runs:
                if speaks_for(mesh, catalogue[run.name]):
                    for row, buffer in enumerate((bucket.gradient, bucket.state.weights)):
                        sums[row, places[run.name]] += _checksum(buffer[run.start : run.stop])
    squares = mesh.merge(squares)
    gradients, weights = mesh.merge(sums).tolist() if checksums else ([], [])
    return Measured(dict(zip(places, squares.tolist(), strict=True)), gradients, weights)


def _block_squares(bucket: Bucket) -> Tensor:
    """Of all blocks in fp64, 0 where another rank owns the block."""
    ranges = bucket.layout.block_ranges
    count = max(part.stop for part in ranges.values())
    found = torch.zeros(count, dtype=torch.float64, device=bucket.gradient.device)
    for run in bucket.runs:
        first = ranges[run.name].start + run.offset // BLOCK
        here = bucket.gradient[run.start : run.stop]
        whole = here.numel() // BLOCK
        if whole:
            blocks = here[: whole * BLOCK].view(whole, BLOCK)
            found[first : first + whole] = squared_norms(blocks)
        if here.numel() % BLOCK:
            found[first + whole] = squared_norms(here[None, whole * BLOCK :])[0]
    return found


def _checksum(x: Tensor) -> Tensor:
    """The wrapping sum of the raw bits of fp32 ``x``, a scalar on its device."""
    return x.view(torch.int32).sum(dtype=torch.int64)
