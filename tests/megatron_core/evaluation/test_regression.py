"""Correlations against their definitions, and baselines of numbers."""

from __future__ import annotations

import numpy as np
import pytest

from megatron_core.evaluation.regression import (
    mean_baseline,
    overlap_baseline,
    regression_scores,
    ridge_baseline,
)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a - a.mean(), b - b.mean()
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def ranks(values: np.ndarray) -> np.ndarray:
    """From 1; equal ones share the mean of theirs."""
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


def test_correlations_are_those_by_definition() -> None:
    random = np.random.RandomState(0)
    truth = random.randint(0, 6, size=80).astype(float)
    guess = truth + random.normal(0, 2, size=80)
    groups = [str(n // 2) for n in range(80)]
    found = regression_scores(list(truth), list(guess), groups)
    assert found["pearson"] == pytest.approx(pearson(truth, guess))
    assert found["spearman"] == pytest.approx(pearson(ranks(truth), ranks(guess)))
    assert found["mean_squared_error"] == pytest.approx(((truth - guess) ** 2).mean())
    for name in ("pearson", "spearman"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


def test_equal_numbers_have_no_correlation() -> None:
    assert regression_scores([1.0, 2.0], [3.0, 3.0], ["a", "b"]) == {"mean_squared_error": 2.5}
    # Nor has a resample of one of two examples.
    assert set(regression_scores([1.0, 2.0], [3.0, 4.0], ["a", "b"])) == {
        "mean_squared_error", "pearson", "spearman"
    }  # fmt: skip


def test_baselines() -> None:
    assert mean_baseline([1.0, 4.0], 2) == [2.5, 2.5]
    assert overlap_baseline([("A b c", "a B d"), ("x", "x"), ("", "")]) == [0.5, 1.0, 0.0]
    pairs = [(f"{word} pain", "pain") for word in ("no", "no", "bad", "bad")]
    low, high = ridge_baseline(pairs, [0.0, 0.0, 5.0, 5.0], [("no pain", "x"), ("bad pain", "x")])
    assert low < 2.5 < high
