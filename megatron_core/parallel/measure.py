"""What every rank must know of a gradient that lies in pieces with its owners."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.squared_norm import squared_norm
from megatron_core.collectives import merge
from megatron_core.model import GridShard
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
        return math.sqrt(sum(self.squares.values()))

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

    A shard's square is the sum of its blocks' in order; blocks lie with their owners. Called on
    every rank; ``catalogue`` is the whole model's.
    """
    places = {key: place for place, key in enumerate(catalogue)}
    squares = torch.zeros(len(places), dtype=torch.float64)
    sums = torch.zeros(2, len(places), dtype=torch.int64)
    for bucket in buckets:
        blocks = merge(_block_squares(bucket), bucket.replicas.group).tolist()
        if bucket.replicas.own == 0:
            for block, square in zip(bucket.layout.blocks(), blocks, strict=True):
                if speaks_for(mesh, catalogue[block.name]):
                    squares[places[block.name]] += square
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
    blocks, own = list(bucket.layout.blocks()), bucket.own
    found = torch.zeros(len(blocks), dtype=torch.float64, device=bucket.gradient.device)
    for i, block in enumerate(blocks):
        if own.start <= block.start < own.stop:
            here = bucket.gradient[block.start - own.start : block.stop - own.start]
            found[i] = squared_norm(here)
    return found


def _checksum(x: Tensor) -> int:
    """The wrapping sum of the raw bits of fp32 ``x``."""
    return int(x.view(torch.int32).sum(dtype=torch.int64))
