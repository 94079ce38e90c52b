"""Scores of predicted numbers, such as similarities, and the baselines beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from megatron_core.evaluation.classification import Texts, tfidf
from megatron_core.evaluation.intervals import with_interval


def regression_scores(
    scores: Sequence[float], predicted: Sequence[float], groups: Sequence[str], seed: int = 0
) -> dict[str, float]:
    """Pearson's and Spearman's correlation with 95 % bootstrap intervals over ``groups``, and the
    mean squared error.

    Correlations are not there where all numbers of a side are equal.
    """
    truth, guess = np.asarray(scores, np.float64), np.asarray(predicted, np.float64)
    found = {"mean_squared_error": float(np.mean((truth - guess) ** 2))}
    if len(np.unique(truth)) < 2 or len(np.unique(guess)) < 2:
        return found
    for name, correlation in (("pearson", pearsonr), ("spearman", spearmanr)):

        def score(rows: NDArray[np.int64], correlation: Any = correlation) -> float:
            if len(np.unique(truth[rows])) < 2 or len(np.unique(guess[rows])) < 2:
                return float("nan")
            return float(correlation(truth[rows], guess[rows]).statistic)

        found |= with_interval(name, groups, score, seed)
    return found


def mean_baseline(train_scores: Sequence[float], count: int) -> list[float]:
    """The mean training score, ``count`` times."""
    return [float(np.mean(train_scores))] * count


def ridge_baseline(
    train_texts: Sequence[Texts], train_scores: Sequence[float], texts: Sequence[Texts]
) -> list[float]:
    """Predictions of ridge regression on TF-IDF of words and word pairs."""
    model = make_pipeline(tfidf(train_texts), Ridge(alpha=1.0, solver="lsqr", tol=1e-10))
    model.fit(list(train_texts), list(train_scores))
    return [float(score) for score in model.predict(list(texts))]


def overlap_baseline(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Of each pair the share of words that its texts have in common (Jaccard, 1912)."""
    found = []
    for pair in pairs:
        first, second = (set(text.casefold().split()) for text in pair)
        found.append(len(first & second) / max(1, len(first | second)))
    return found
