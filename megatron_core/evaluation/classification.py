"""Scores of a classifier, and the baselines beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer

from megatron_core.evaluation.intervals import over_groups

Texts = str | tuple[str, str]  # a text, or a pair of texts

_RESAMPLES = 300


def classification_scores(
    labels: Sequence[str],
    predicted: Sequence[str],
    groups: Sequence[str],
    seed: int = 0,
    *,
    outside: str | None = None,
) -> dict[str, float]:
    """Macro-F1 and accuracy with a 95 % bootstrap interval of the former.

    Whole ``groups`` are resampled (Efron, 1979), since texts of one group are alike.

    Args:
        labels: The right ones.
        predicted: The guesses.
        groups: What each belongs with.
        seed: Of the resamples.
        outside: The class that is nothing, such as ``none`` of relations. The F1s are then over
            the others, and there is ``micro_f1`` too; over all classes that is the accuracy.
    """
    truth, guess = np.asarray(labels), np.asarray(predicted)

    scores: dict[str, float] = {}
    for average in ("macro", "micro") if outside is not None else ("macro",):

        def score(rows: np.ndarray, average: str = average) -> float:
            return _f1(truth[rows], guess[rows], average, outside)

        scores[f"{average}_f1"] = score(np.arange(len(truth)))
        if (interval := over_groups(groups, score, seed, _RESAMPLES)) is not None:
            scores |= {f"{average}_f1_low": interval.low, f"{average}_f1_high": interval.high}
    scores["accuracy"] = float(accuracy_score(truth, guess))
    return scores


def majority_baseline(train_labels: Sequence[str], count: int) -> list[str]:
    """The commonest training label, ``count`` times; ties go to the first in order."""
    counted = Counter(train_labels)
    best = min(counted, key=lambda label: (-counted[label], label))
    return [best] * count


def tfidf_baseline(
    train_texts: Sequence[Texts], train_labels: Sequence[str], texts: Sequence[Texts]
) -> list[str]:
    """Predictions of logistic regression on TF-IDF of words and word pairs.

    Of a pair of texts each side has features of its own.
    """
    model = make_pipeline(tfidf(train_texts), LogisticRegression(C=10.0, max_iter=300))
    model.fit(list(train_texts), list(train_labels))
    return [str(label) for label in model.predict(list(texts))]


def tfidf(texts: Sequence[Texts]) -> Any:
    """What makes TF-IDF of words and word pairs of texts, or of the sides of pairs, as of
    ``texts``."""
    if isinstance(texts[0], str):
        return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return make_union(
        *(
            make_pipeline(
                FunctionTransformer(partial(_side, side)),
                TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            )
            for side in range(2)
        )
    )


def _side(side: int, pairs: Sequence[tuple[str, str]]) -> list[str]:
    return [pair[side] for pair in pairs]


def _f1(labels: np.ndarray, predicted: np.ndarray, average: str, outside: str | None) -> float:
    """F1 over the classes that occur in ``labels``, or in either for the micro average."""
    among = labels if average == "macro" else np.concatenate([labels, predicted])
    classes = [name for name in np.unique(among) if name != outside]
    if not classes:
        return 0.0
    return float(f1_score(labels, predicted, labels=classes, average=average, zero_division=0))
