"""The loss scale as a state machine."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_core.config import LossScale
from megatron_core.optimizer.scaling import LossScaler

steps = st.lists(st.booleans(), max_size=60)
HISTORY = [True, False, True, True, True, True, True, False, True, True, True, True]


def run(scaler: LossScaler, finite: list[bool]) -> list[float]:
    """The scale after each step."""
    scales = []
    for step in finite:
        scaler.update(step)
        scales.append(scaler.scale)
    return scales


def test_it_halves_on_overflow_and_doubles_after_a_quiet_while() -> None:
    scaler = LossScaler(LossScale(initial=16, growth_every=3))
    assert run(scaler, HISTORY) == [16, 8, 8, 8, 16, 16, 16, 8, 8, 8, 16, 16]


@settings(deadline=None)  # the first call of an optimizer of torch takes a second
@given(steps)
def test_it_is_torchs_grad_scaler(finite: list[bool]) -> None:
    """From so high that torch's, which has no floor, stays above 1."""
    theirs = torch.amp.GradScaler("cpu", init_scale=2.0**64, growth_interval=4)
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    expected = []
    theirs.scale(torch.ones(()))
    for step in finite:
        parameter.grad = torch.tensor([0.0 if step else math.inf])
        theirs.step(optimizer)
        theirs.update()
        expected.append(theirs.get_scale())
    assert run(LossScaler(LossScale(initial=2**64, growth_every=4)), finite) == expected


@pytest.mark.parametrize("cut", range(len(HISTORY)))
def test_a_resumed_scaler_goes_on_as_if_nothing_had_happened(cut: int) -> None:
    config = LossScale(initial=16, growth_every=3)
    first, second = LossScaler(config), LossScaler(config)
    before = run(first, HISTORY[:cut])
    second.restore(first.state())
    assert before + run(second, HISTORY[cut:]) == run(LossScaler(config), HISTORY)


@given(steps)
def test_it_is_always_a_power_of_two(finite: list[bool]) -> None:
    scales = run(LossScaler(LossScale(initial=4, growth_every=3)), finite)
    assert all(scale >= 1 and math.frexp(scale)[0] == 0.5 for scale in scales)


def test_it_never_falls_below_one() -> None:
    scaler = LossScaler(LossScale(initial=4))
    assert run(scaler, [False] * 5) == [2, 1, 1, 1, 1]


@given(steps)
def test_without_a_config_nothing_happens(finite: list[bool]) -> None:
    scaler = LossScaler()
    assert set(run(scaler, finite)) <= {1.0}
    scaler.restore({"loss_scale": 8.0, "quiet_steps": 2.0})
    assert scaler.state() == {"loss_scale": 1.0, "quiet_steps": 0.0}


def test_another_state_is_refused() -> None:
    with pytest.raises(KeyError, match="loss_scale"):
        LossScaler(LossScale()).restore({"step": 1.0})
