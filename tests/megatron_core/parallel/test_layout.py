"""Which ranks a run takes, and what it refuses."""

from __future__ import annotations

import re

import pytest
import torch

from megatron_core.config import Grid
from megatron_core.errors import ConfigError, ReforgeError
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import Mesh, open_mesh

GRIDS = {"pretrain": Grid(data=8), "finetune.continued": Grid(data=4)}


@pytest.mark.parametrize(("text", "data"), [("data=1", 1), ("data=4", 4), ("data=16", 16)])
def test_a_layout_is_read(text: str, data: int) -> None:
    layout = Layout.parse(text)
    assert (layout.data, layout.ranks, layout.degrees()) == (data, data, {"data": data})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensor=2", "`tensor` cannot be laid out over ranks in this version; write data=N"),
        ("", "`` cannot be laid out"),
        ("2", "`2` cannot be laid out"),
        ("data", "`data` needs a whole number from 1 up"),
        ("data=0", "`data=0` needs a whole number"),
        ("data=-2", "`data=-2` needs a whole number"),
        ("data=2.0", "`data=2.0` needs a whole number"),
        ("data=²", "`data=²` needs a whole number"),
        ("data=2,pipeline=2", "`pipeline` cannot be laid out"),
    ],
)
def test_what_is_no_layout_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--layout {text}: {message}")):
        Layout.parse(text)


@pytest.mark.parametrize(
    ("text", "room", "joined", "data"),
    [
        ("auto", 1, None, 1),
        ("auto", 0, None, 1),
        ("auto", 2, None, 2),
        ("auto", 3, None, 2),
        ("auto", 100, None, 4),  # the smaller grid
        ("auto", 1, 2, 2),  # a launcher has decided
        ("data=4", 1, None, 4),  # asked for, whatever the room
        ("data=2", 64, None, 2),
        ("data=2", 64, 2, 2),
    ],
)
def test_the_choice(text: str, room: int, joined: int | None, data: int) -> None:
    assert Layout.choose(text, GRIDS, room=room, joined=joined) == Layout(data=data)


@pytest.mark.parametrize(
    ("text", "joined", "message"),
    [
        ("data=4", 2, "--layout data=4 needs 4 ranks, but 2 were launched"),
        ("data=8", None, "data=8 in the layout must divide finetune.continued.grid.data = 4"),
        ("data=3", None, "data=3 in the layout must divide pretrain.grid.data = 8"),
        ("auto", 3, "data=3 in the layout must divide pretrain.grid.data = 8"),
    ],
)
def test_what_does_not_fit_the_grid_is_refused(text: str, joined: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Layout.choose(text, GRIDS, room=8, joined=joined)


@pytest.mark.parametrize(("grid", "ranks"), [(1, 1), (4, 1), (4, 2), (8, 8), (64, 4)])
def test_ranks_own_aligned_blocks_that_cover_the_grid(grid: int, ranks: int) -> None:
    cpu = torch.device("cpu")
    blocks = [Mesh(Layout(ranks), rank, cpu, None).owned_shards(grid) for rank in range(ranks)]
    assert [shard for block in blocks for shard in block] == list(range(grid))
    assert all(block.start % len(block) == 0 for block in blocks)
    assert {len(block) for block in blocks} == {grid // ranks}


def test_a_mesh_of_one_rank_fixes_what_numbers_depend_on() -> None:
    with open_mesh(Layout(), "cpu", 1) as mesh:
        assert mesh.is_first
        assert mesh.data_group is None
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
