"""Intervals against other implementations, and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from megatron_core.evaluation.intervals import (
    bootstrap,
    exact,
    mean_interval,
    mean_with_interval,
    over_groups,
    over_runs,
    ratio_bootstrap,
)


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


def test_groups_are_resampled_whole() -> None:
    """Copies of an example in its group make no score surer; as examples of their own they do."""
    values = np.random.RandomState(3).normal(0, 1, size=40)
    copied, own = np.repeat(values, 9), [str(n) for n in range(360)]
    groups = [str(n // 9) for n in range(360)]

    def width(values: np.ndarray, groups: list[str]) -> float:
        found = mean_with_interval("mean", groups, list(values), seed=1)
        assert found["mean"] == pytest.approx(values.mean())
        return found["mean_high"] - found["mean_low"]

    alone = width(values, own[:40])
    assert width(copied, groups) == pytest.approx(alone, rel=0.15)
    assert width(copied, own) == pytest.approx(alone / 3, rel=0.15)
    assert over_groups(own, lambda rows: float("nan"), seed=1) is None


def test_over_runs() -> None:
    values = [0.61, 0.66, 0.64]
    found = over_runs(values)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(np.std(values) * np.sqrt(3 / 2))
    assert found.runs == 3
    alone = over_runs([0.5])
    assert (alone.mean, alone.deviation, alone.low, alone.high) == (0.5, None, None, None)
