"""Scores of a classifier, and the baselines beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline

_RESAMPLES = 300


def classification_scores(
    labels: Sequence[str], predicted: Sequence[str], groups: Sequence[str], seed: int = 0
) -> dict[str, float]:
    """Macro-F1 and accuracy with a 95 % bootstrap interval of the former.

    Whole ``groups`` are resampled (Efron, 1979), since texts of one group are alike.
    """
    truth, guess = np.asarray(labels), np.asarray(predicted)
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    blocks = [np.array(rows) for rows in members.values()]
    random = np.random.RandomState(seed)
    resampled = []
    for _ in range(_RESAMPLES):
        drawn = random.randint(len(blocks), size=len(blocks))
        rows = np.concatenate([blocks[i] for i in drawn])
        resampled.append(_macro_f1(truth[rows], guess[rows]))
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {
        "macro_f1": _macro_f1(truth, guess),
        "macro_f1_low": float(low),
        "macro_f1_high": float(high),
        "accuracy": float(accuracy_score(truth, guess)),
    }


def majority_baseline(train_labels: Sequence[str], count: int) -> list[str]:
    """The commonest training label, ``count`` times; ties go to the first in order."""
    counted = Counter(train_labels)
    best = min(counted, key=lambda label: (-counted[label], label))
    return [best] * count


def tfidf_baseline(
    train_texts: Sequence[str], train_labels: Sequence[str], texts: Sequence[str]
) -> list[str]:
    """Predictions of logistic regression on TF-IDF of words and word pairs."""
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=300),
    )
    model.fit(list(train_texts), list(train_labels))
    return [str(label) for label in model.predict(list(texts))]


def _macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes that occur in ``labels``."""
    classes = np.unique(labels)
    return float(f1_score(labels, predicted, labels=classes, average="macro", zero_division=0))
