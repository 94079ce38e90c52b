"""Where each rank is, and whom it meets in which collective."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_core.collectives import Span
from megatron_core.config import Grid
from megatron_core.errors import ReforgeError
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import Mesh, open_mesh
from tests.ranks import run_ranks

CPU = torch.device("cpu")
# Every axis above 1; 32 ranks exist on paper alone.
LARGE = Layout(data=4, tensor=2, context=2, pipeline=2, expert=2)
GRID = Grid(data=8, tensor=4, context=2)


def meshes(layout: Layout) -> list[Mesh]:
    return [Mesh(layout, rank, CPU) for rank in range(layout.ranks)]


def place(mesh: Mesh) -> tuple[int, int, int, int]:
    """Along the dimensions of a layout, slowest first."""
    at = mesh.coordinates
    return mesh.pipeline_rank, mesh.data_rank, at["context"], at["tensor"]


def test_neighbours_share_a_tensor_and_stages_are_farthest_apart() -> None:
    ordered = [
        (pipeline, data, context, tensor)
        for pipeline in range(2) for data in range(4) for context in range(2)
        for tensor in range(2)
    ]  # fmt: skip
    assert [place(mesh) for mesh in meshes(LARGE)] == ordered


def test_experts_are_spread_over_neighbours_among_the_data_ranks() -> None:
    for mesh in meshes(LARGE):
        assert mesh.expert().rank == mesh.data_rank % 2
        assert mesh.expert().shards == mesh.expert().ranks == 2


def test_a_peer_differs_by_its_stage_alone() -> None:
    for mesh in meshes(LARGE):
        for stage in range(2):
            peer = meshes(LARGE)[mesh.peer(stage)]
            assert place(peer) == (stage, *place(mesh)[1:])


@pytest.mark.parametrize("layout", [Layout(), Layout(data=2), Layout(tensor=4, data=8), LARGE])
def test_the_ranks_cover_the_grid(layout: Layout) -> None:
    """Each cell of the grid is computed by one rank of each stage."""
    cells = [
        (mesh.pipeline_rank, data, tensor, context)
        for mesh in meshes(layout)
        for data in mesh.owned_shards(GRID.data)
        for tensor in mesh.tensor(GRID).local
        for context in mesh.context(GRID).local
    ]
    assert len(cells) == len(set(cells)) == layout.pipeline * 8 * 4 * 2


def work(layout: Layout, folder: Path) -> None:
    """What this rank sees of the others, group by group."""
    with open_mesh(layout, "cpu", 1) as mesh:
        seen = {
            name: sorted(dist.get_process_group_ranks(group)) for name, group in mesh.groups.items()
        }
        spans = {"tensor": mesh.tensor(GRID), "context": mesh.context(GRID)}
        met = {
            name: span.gather(torch.tensor([mesh.rank])).tolist() for name, span in spans.items()
        }
        merged = mesh.merge(torch.tensor([mesh.rank, 2**40]))
        flags = mesh.any(mesh.rank == 3), mesh.any(False)
        torch.save((seen, met, merged, flags), folder / f"{mesh.rank}.pt")


def test_ranks_meet_those_that_differ_along_the_axes_of_a_group(tmp_path: Path) -> None:
    layout = Layout(data=2, tensor=2, context=2)
    assert run_ranks(work, 8, layout, tmp_path) == [0] * 8
    for rank in range(8):
        seen, met, merged, flags = torch.load(tmp_path / f"{rank}.pt")
        tensor, context, data = rank & 1, rank & 2, rank & 4
        assert met == {
            "tensor": [context + data, context + data + 1],
            "context": [tensor + data, tensor + data + 2],
        }
        replicas = [r for r in range(8) if r & 1 == tensor]
        assert seen == {
            "tensor": met["tensor"], "context": met["context"],
            "data": [rank & 3, (rank & 3) + 4], "expert_data": [rank & 3, (rank & 3) + 4],
            "replica": replicas, "expert_replica": replicas, "checkpoint": list(range(8)),
        }  # fmt: skip
        assert merged.tolist() == [sum(range(8)), 8 * 2**40]
        assert flags == (True, False)


def test_expert_ranks_meet_apart_from_those_that_hold_the_same_experts(tmp_path: Path) -> None:
    layout = Layout(data=4, expert=2)
    assert run_ranks(work, 4, layout, tmp_path) == [0] * 4
    for rank in range(4):
        seen, met, *_ = torch.load(tmp_path / f"{rank}.pt")
        assert met == {"tensor": [rank], "context": [rank]}
        alike = [rank % 2, rank % 2 + 2]
        assert seen == {
            "data": [0, 1, 2, 3], "replica": [0, 1, 2, 3], "checkpoint": [0, 1, 2, 3],
            "expert": [rank & 2, (rank & 2) + 1], "expert_data": alike, "expert_replica": alike,
        }  # fmt: skip


def test_a_mesh_of_one_rank_opens_no_group_and_fixes_what_numbers_depend_on() -> None:
    with open_mesh(Layout(), "cpu", 1) as mesh:
        assert mesh.is_first
        assert mesh.groups == {}
        assert not dist.is_initialized()
        assert mesh.tensor(GRID) == Span(4)
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_not_replaced() -> None:
    with (
        pytest.raises(ReforgeError, match="asks for device: cuda, but torch finds no GPU here"),
        open_mesh(Layout(), "cuda", 1),
    ):
        pytest.fail("the block must not run")
