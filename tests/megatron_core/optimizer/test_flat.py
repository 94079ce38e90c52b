"""Where tensors lie in the flat buffer, and where it is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.optimizer import BLOCK, FlatLayout

SHAPES = st.dictionaries(
    st.text("abcxyz.", min_size=1, max_size=6),
    st.lists(st.integers(1, 9), min_size=0, max_size=3).map(torch.Size),
    max_size=12,
)
LONG = st.dictionaries(
    st.text("abcxyz.", min_size=1, max_size=6),
    st.one_of(
        st.integers(1, 2 * BLOCK + 9).map(lambda n: torch.Size([n])),
        st.integers(1, 3).map(lambda n: torch.Size([n, BLOCK])),
        st.integers(1, 9).map(lambda n: torch.Size([n, 5])),
    ),
    min_size=1,
    max_size=4,
)


@given(SHAPES)
def test_views_are_apart_aligned_and_matrices_come_first(shapes: dict[str, torch.Size]) -> None:
    layout = FlatLayout(shapes)
    views = layout.views(torch.arange(layout.size, dtype=torch.float32))
    assert {name: view.shape for name, view in views.items()} == shapes
    places = {name: set(view.flatten().long().tolist()) for name, view in views.items()}
    assert sum(map(len, places.values())) == len(set().union(*places.values()))
    for name, shape in shapes.items():
        assert min(places[name]) * 4 % 64 == 0
        inside = max(places[name]) < layout.decayed
        outside = min(places[name]) >= layout.decayed
        assert inside if len(shape) >= 2 else outside


@given(SHAPES)
def test_it_does_not_depend_on_the_order_of_the_names(shapes: dict[str, torch.Size]) -> None:
    turned = FlatLayout(dict(reversed(shapes.items())))
    assert turned.offsets == FlatLayout(shapes).offsets
    assert turned.size == FlatLayout(shapes).size


def test_views_share_the_storage() -> None:
    layout = FlatLayout({"bias": torch.Size([3]), "matrix": torch.Size([2, 5])})
    buffer = torch.zeros(layout.size)
    views = layout.views(buffer)
    views["matrix"].fill_(1.0)
    views["bias"].fill_(2.0)
    assert float(buffer.sum()) == 16.0
    assert float(buffer[: layout.decayed].sum()) == 10.0


@given(LONG)
def test_blocks_cover_each_tensor_from_its_own_start(shapes: dict[str, torch.Size]) -> None:
    layout = FlatLayout(shapes)
    places = torch.arange(layout.size)
    views = layout.views(places)
    blocks = list(layout.blocks())
    assert [block.start for block in blocks] == sorted(block.start for block in blocks)
    for name, view in views.items():
        mine = [block for block in blocks if block.name == name]
        assert [block.offset for block in mine] == list(range(0, view.numel(), BLOCK))
        covered = torch.cat([places[block.start : block.stop] for block in mine])
        assert torch.equal(covered, view.flatten())


@given(LONG, st.integers(1, 9))
def test_a_cut_is_whole_blocks(shapes: dict[str, torch.Size], parts: int) -> None:
    layout = FlatLayout(shapes)
    bounds = layout.cut(parts)
    assert len(bounds) == parts + 1
    assert (bounds[0], bounds[-1]) == (0, layout.size)
    assert bounds == sorted(bounds)
    assert set(bounds) <= {block.start for block in layout.blocks()} | {layout.size}
    for block in layout.blocks():
        owners = [start <= block.start and block.stop <= stop for start, stop in pairwise(bounds)]
        assert sum(owners) == 1
    largest = max(stop - start for start, stop in pairwise(bounds))
    assert largest <= layout.size / parts + BLOCK + 16  # as even as blocks allow


@given(LONG, st.integers(1, 9))
def test_the_runs_of_all_cuts_are_the_tensors(shapes: dict[str, torch.Size], parts: int) -> None:
    layout = FlatLayout(shapes)
    buffer = torch.arange(layout.size)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in shapes}
    for start, stop in pairwise(layout.cut(parts)):
        for run in layout.runs(start, stop):
            assert run.offset % BLOCK == 0
            assert run.offset == sum(map(len, found[run.name]))
            found[run.name].append(buffer[start:stop][run.start : run.stop])
    for name, view in layout.views(buffer).items():
        assert torch.equal(torch.cat(found[name]), view.flatten())


@pytest.mark.parametrize("parts", [1, 3, 8])
def test_nothing_can_be_cut(parts: int) -> None:
    assert FlatLayout({}).cut(parts) == [0] * (parts + 1)
