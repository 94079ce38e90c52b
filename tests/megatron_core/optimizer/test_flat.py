"""Where tensors lie in the flat buffer."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.optimizer import FlatLayout

SHAPES = st.dictionaries(
    st.text("abcxyz.", min_size=1, max_size=6),
    st.lists(st.integers(1, 9), min_size=0, max_size=3).map(torch.Size),
    max_size=12,
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
    buffer = layout.zeros(torch.device("cpu"))
    views = layout.views(buffer)
    views["matrix"].fill_(1.0)
    views["bias"].fill_(2.0)
    assert float(buffer.sum()) == 16.0
    assert float(buffer[: layout.decayed].sum()) == 10.0
