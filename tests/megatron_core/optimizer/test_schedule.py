"""The learning rate at the points one can work out by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.config import RateSchedule
from megatron_core.optimizer import learning_rate

COSINE = RateSchedule(kind="cosine", warmup_steps=10, final=0.1)
WSD = RateSchedule(kind="wsd", warmup_steps=10, decay=0.2, final=0.0)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        (COSINE, 1, 0.2),  # a tenth of the peak of 2
        (COSINE, 5, 1.0),
        (COSINE, 10, 2.0),
        (COSINE, 60, 1.1),  # half-way: the mean of peak and last
        (COSINE, 110, 0.2),
        (WSD, 5, 1.0),
        (WSD, 10, 2.0),
        (WSD, 88, 2.0),  # the last fifth of 110 steps starts after step 88
        (WSD, 99, 1.0),
        (WSD, 110, 0.0),
        (RateSchedule(kind="wsd", warmup_steps=0, decay=1.0, final=0.5), 55, 1.5),
        (RateSchedule(kind="cosine", warmup_steps=0, final=0.0), 110, 0.0),
        (RateSchedule(kind="cosine", warmup_steps=109, final=0.5), 110, 1.0),
    ],
)
def test_key_points(schedule: RateSchedule, step: int, expected: float) -> None:
    rate = learning_rate(step, peak=2.0, steps=110, schedule=schedule)
    assert rate == pytest.approx(expected, abs=1e-12)


@given(
    kind=st.sampled_from(["cosine", "wsd"]),
    steps=st.integers(1, 80),
    warmup=st.integers(0, 79),
    decay=st.floats(0.01, 1),
    final=st.floats(0, 1),
)
def test_it_rises_to_the_peak_then_falls_to_the_last(
    kind: str, steps: int, warmup: int, decay: float, final: float
) -> None:
    warmup, rounding = min(warmup, steps - 1), 1e-12
    schedule = RateSchedule(kind=kind, warmup_steps=warmup, decay=decay, final=final)
    rates = [
        learning_rate(step, peak=3.0, steps=steps, schedule=schedule)
        for step in range(1, steps + 1)
    ]
    assert min(rates) >= 0
    assert max(rates) <= 3.0 + rounding
    assert all(a < b for a, b in pairwise(rates[:warmup]))
    assert all(b <= a + rounding for a, b in pairwise(rates[max(0, warmup - 1) :]))
    if warmup:
        assert rates[warmup - 1] == pytest.approx(3.0, abs=rounding)
    assert rates[-1] == pytest.approx(3.0 * final, abs=rounding)
