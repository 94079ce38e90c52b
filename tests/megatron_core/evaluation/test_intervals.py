"""Intervals against other implementations, and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from megatron_core.evaluation.intervals import bootstrap, exact, mean_interval, ratio_bootstrap


@pytest.mark.parametrize(("right", "count"), [(0, 9), (9, 9), (3, 8), (120, 200)])
def test_shares(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(0.95, method="exact")
    found = exact(right, count)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    answers = [1.0] * right + [0.0] * (count - right)
    assert mean_interval(answers, seed=0) == found


def test_ratios_cover_the_truth_about_as_often_as_they_say() -> None:
    random = np.random.RandomState(1)
    covered = 0
    for seed in range(200):
        sizes = random.randint(20, 200, size=60).astype(float)
        totals = sizes * 1.5 + random.normal(0, 30, size=60)
        found = ratio_bootstrap(totals, sizes, seed, lambda value: value)
        covered += found.low <= 1.5 <= found.high
    assert 175 <= covered <= 199  # 190 in the mean


def test_a_mean_that_is_no_share_and_any_other_score() -> None:
    values = list(np.random.RandomState(2).normal(3, 1, size=50))
    mean = mean_interval(values, seed=1)
    error = np.std(values, ddof=1) / np.sqrt(50)
    assert mean.kind == "bootstrap"
    assert (mean.low, mean.high) == pytest.approx(
        (np.mean(values) - 1.96 * error, np.mean(values) + 1.96 * error), abs=0.3 * error
    )
    assert mean_interval(values, seed=1) == mean
    anew = bootstrap(values, np.mean, seed=1)
    assert anew is not None
    assert (anew.low, anew.high) == pytest.approx((mean.low, mean.high), abs=0.4 * error)
    assert bootstrap(values, lambda items: items.index("none"), seed=1) is None
