"""AdamW on the flat buffer against torch's on a parameter each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from megatron_core.config import AdamW
from megatron_core.optimizer import AdamWState, FlatLayout, clip_coefficient, global_norm

SHAPES = {"norm": torch.Size([7]), "matrix": torch.Size([5, 9]), "bias": torch.Size([1])}


def test_the_norm_is_that_of_all_numbers_in_float64() -> None:
    random = np.random.RandomState(0)
    arrays = {f"t{i}": random.randn(*shape) * 10.0**i for i, shape in enumerate([(3, 4), (100,)])}
    tensors = {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}
    exact = math.sqrt(
        math.fsum(float(x) ** 2 for t in tensors.values() for x in t.double().flatten())
    )
    assert global_norm(tensors) == pytest.approx(exact, rel=1e-14)
    assert global_norm(dict(reversed(tensors.items()))) == global_norm(tensors)


def test_a_norm_that_fp32_could_not_hold() -> None:
    assert global_norm({"a": torch.full((4,), 1e30)}) == pytest.approx(2e30)


@pytest.mark.parametrize(
    ("norm", "limit", "expected"), [(4.0, 1.0, 0.25), (0.5, 1.0, 1.0), (0.0, 1.0, 1.0), (2, 2, 1)]
)
def test_clipping_never_lengthens(norm: float, limit: float, expected: float) -> None:
    assert clip_coefficient(norm, limit) == expected


def test_the_update_decays_matrices_alone() -> None:
    config = AdamW(beta1=0.8, beta2=0.9, epsilon=1e-6, weight_decay=0.3)
    layout = FlatLayout(SHAPES)
    state = AdamWState(layout, torch.device("cpu"))
    weights = layout.views(state.weights)
    generator = torch.Generator().manual_seed(0)
    for view in weights.values():
        view.copy_(torch.randn(view.shape, generator=generator))
    theirs = {name: torch.nn.Parameter(view.double()) for name, view in weights.items()}
    optimizer = torch.optim.AdamW(
        [
            {"params": [theirs["matrix"]], "weight_decay": 0.3},
            {"params": [theirs["norm"], theirs["bias"]], "weight_decay": 0.0},
        ],
        lr=1e-2, betas=(0.8, 0.9), eps=1e-6,
    )  # fmt: skip
    for step in range(1, 6):
        gradient = layout.zeros(torch.device("cpu"))
        for name, view in layout.views(gradient).items():
            view.copy_(torch.randn(view.shape, generator=generator))
            theirs[name].grad = view.double()
        state.update(gradient, step=step, rate=1e-2, config=config)
        optimizer.step()
    tensors = state.tensors()
    assert set(tensors) == {f"{k}/{n}" for k in ("weights", "first", "second") for n in SHAPES}
    for name, parameter in theirs.items():
        moments = optimizer.state[parameter]
        for kind, exact in (
            ("weights", parameter.detach()), ("first", moments["exp_avg"]),
            ("second", moments["exp_avg_sq"]),
        ):  # fmt: skip
            torch.testing.assert_close(
                tensors[f"{kind}/{name}"].double(), exact, rtol=1e-5, atol=1e-6
            )
