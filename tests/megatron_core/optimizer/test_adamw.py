"""AdamW on cuts of a flat buffer against torch's on a parameter each, and against other cuts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.registry import Kernels
from megatron_core.config import AdamW
from megatron_core.optimizer import BLOCK, AdamWState, FlatLayout, clip_coefficient

CONFIG = AdamW(beta1=0.8, beta2=0.9, epsilon=1e-6, weight_decay=0.3)
SHAPES = {"norm": torch.Size([7]), "matrix": torch.Size([5, 9]), "bias": torch.Size([1])}
LONG = FlatLayout(
    {
        "short": torch.Size([3, 5]), "long": torch.Size([2, BLOCK]), "odd": torch.Size([BLOCK + 7]),
        "norm": torch.Size([33]),
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("norm", "limit", "expected"), [(4.0, 1.0, 0.25), (0.5, 1.0, 1.0), (0.0, 1.0, 1.0), (2, 2, 1)]
)
def test_clipping_never_lengthens(norm: float, limit: float, expected: float) -> None:
    assert clip_coefficient(norm, limit) == expected


def normal(size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_the_update_decays_matrices_alone() -> None:
    layout = FlatLayout(SHAPES)
    state = AdamWState(normal(layout.size, 0), layout.decayed)
    weights = layout.views(state.weights)
    theirs = {name: torch.nn.Parameter(view.double()) for name, view in weights.items()}
    optimizer = torch.optim.AdamW(
        [
            {"params": [theirs["matrix"]], "weight_decay": 0.3},
            {"params": [theirs["norm"], theirs["bias"]], "weight_decay": 0.0},
        ],
        lr=1e-2, betas=(0.8, 0.9), eps=1e-6,
    )  # fmt: skip
    for step in range(1, 6):
        gradient = normal(layout.size, step)
        for name, view in layout.views(gradient).items():
            theirs[name].grad = view.double()
        state.update(gradient, step=step, rate=1e-2, config=CONFIG, kernels=Kernels())
        optimizer.step()
    first, second = layout.views(state.first), layout.views(state.second)
    for name, parameter in theirs.items():
        moments = optimizer.state[parameter]
        for ours, exact in (
            (weights[name], parameter.detach()), (first[name], moments["exp_avg"]),
            (second[name], moments["exp_avg_sq"]),
        ):  # fmt: skip
            torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)


def trained(bounds: Sequence[int]) -> list[Tensor]:
    """Weights and moments after three steps in which each cut is updated by its owner alone."""
    weights = normal(LONG.size, 0)
    states = []
    for start, stop in pairwise(bounds):
        decayed = min(max(LONG.decayed - start, 0), stop - start)
        states.append(AdamWState(weights[start:stop].clone(), decayed))
    for step in range(1, 4):
        gradient = normal(LONG.size, step)
        for state, (start, stop) in zip(states, pairwise(bounds), strict=True):
            part = gradient[start:stop].clone()
            state.update(part, step=step, rate=1e-2 / step, config=CONFIG, kernels=Kernels())
    return [
        torch.cat([getattr(state, kind) for state in states])
        for kind in ("weights", "first", "second")
    ]


WHOLE = trained([0, LONG.size])
STARTS = [block.start for block in LONG.blocks()]


@pytest.mark.parametrize("parts", [2, 3, 4, 8])
def test_cuts_between_blocks_move_no_bit(parts: int) -> None:
    bounds = LONG.cut(parts)
    assert len(set(bounds)) > 2
    assert all(map(torch.equal, trained(bounds), WHOLE))


@settings(max_examples=30)
@given(st.lists(st.sampled_from(STARTS), max_size=6))
def test_nor_does_any_other_choice_of_blocks(starts: list[int]) -> None:
    assert all(map(torch.equal, trained([0, *sorted(starts), LONG.size]), WHOLE))
