"""Norms and checksums of gradients that lie in pieces with their owners."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from kernels.squared_norm import halving_sum_, squared_norms
from megatron_core.config import Grid
from megatron_core.model import GridShard, ParameterShard
from megatron_core.optimizer import BLOCK
from megatron_core.parallel.bucket import Bucket, Replicas
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.measure import Measured, measure
from megatron_core.parallel.mesh import Mesh, open_mesh
from tests.ranks import run_ranks
from tests.spans import normal

GRID = Grid(data=4, tensor=2, context=2)
# Of several blocks, of one, and of one and a bit; the first is cut over the tensor shards.
SIZES = {"a": 3 * BLOCK + 5, "b": 70, "c": BLOCK + 7}


def catalogue() -> dict[str, GridShard]:
    shards = {}
    for tensor, size in SIZES.items():
        split = tensor == "a"
        for number in range(2 if split else 1):
            shard = GridShard(
                tensor, number, ((1 + split) * size,), 0 if split else None, 1 + split,
                expert=False, sliced=False,
            )  # fmt: skip
            shards[shard.key] = shard
    return shards


def measured(mesh: Mesh) -> Measured:
    """Of a bucket whose gradient and weights are functions of the shards' names."""
    here = [
        shard for shard in catalogue().values()
        if shard.axis is None or shard.shard in mesh.tensor(GRID).local
    ]  # fmt: skip
    parameters = [
        ParameterShard(shard, nn.Parameter(normal(f"weights {shard.key}", SIZES[shard.tensor])))
        for shard in here
    ]
    replicas = Replicas.of(mesh, mesh.context(GRID), expert=False)
    bucket = Bucket(parameters, replicas, dtype=torch.float32, device=mesh.device)
    bucket.adopt()
    whole = torch.zeros(bucket.layout.size)
    for key, view in bucket.layout.views(whole).items():
        view.copy_(normal(f"gradient {key}", len(view)))
    bucket.gradient = whole[bucket.own].clone()
    return measure([bucket], catalogue(), mesh, checksums=True)


def test_a_square_is_the_halving_sum__of_its_blocks() -> None:
    with open_mesh(Layout(), "cpu", 1) as mesh:
        found = measured(mesh)
    assert list(found.squares) == ["a/0", "a/1", "b/0", "c/0"]
    for number, (key, shard) in enumerate(catalogue().items()):
        gradient = normal(f"gradient {key}", SIZES[shard.tensor])
        blocks = torch.cat([squared_norms(block[None]) for block in gradient.split(BLOCK)])
        assert found.squares[key] == float(halving_sum_(blocks))
        exact = math.fsum(value * value for value in gradient.tolist())
        assert found.squares[key] == pytest.approx(exact, rel=1e-14)
        weights = normal(f"weights {key}", SIZES[shard.tensor])
        assert found.gradients[number] == sum(gradient.view(torch.int32).tolist())
        assert found.weights[number] == sum(weights.view(torch.int32).tolist())
    assert found.norm**2 == pytest.approx(sum(found.squares.values()), rel=1e-15)


def work(layout: Layout, folder: Path) -> None:
    with open_mesh(layout, "cpu", 1) as mesh:
        torch.save(measured(mesh), folder / f"{mesh.rank}.pt")


@pytest.mark.parametrize(
    "layout", [Layout(data=4), Layout(data=2, context=2), Layout(data=2, tensor=2)], ids=str
)
def test_every_rank_knows_the_same_whoever_owns_what(layout: Layout, tmp_path: Path) -> None:
    """Replicated tensors are counted once."""
    with open_mesh(Layout(), "cpu", 1) as mesh:
        alone = measured(mesh)
    assert run_ranks(work, layout.ranks, layout, tmp_path) == [0] * layout.ranks
    for rank in range(layout.ranks):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=False) == alone


def test_shards_that_are_not_finite_are_named() -> None:
    found = Measured({"a/0": 1.0, "a/1": float("inf"), "b/0": float("nan")}, [], [])
    assert found.nonfinite == ["a/1", "b/0"]
    assert replace(found, squares={"a/0": 9.0, "a/1": 16.0}).norm == 5.0
