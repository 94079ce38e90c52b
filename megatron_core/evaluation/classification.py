"""Scores of a classifier, and the baselines beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer

from megatron_core.evaluation.intervals import with_interval

Texts = str | tuple[str, str]  # a text, or a pair of texts


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
    classes, numbers = np.unique([*labels, *predicted], return_inverse=True)
    truth, guess = numbers[: len(labels)], numbers[len(labels) :]
    counted = classes != outside

    def counts(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Of each class that counts: right, in truth, in guesses."""
        right = truth[rows][truth[rows] == guess[rows]]
        return [
            np.bincount(x, minlength=len(classes))[counted]
            for x in (right, truth[rows], guess[rows])
        ]

    def macro(rows: NDArray[np.int64]) -> float:
        """Over the classes that occur in truth."""
        right, true, guessed = (count.astype(float) for count in counts(rows))
        occurs = true > 0
        each = 2 * right[occurs] / (true + guessed)[occurs]
        return float(each.mean()) if each.size else 0.0

    def micro(rows: NDArray[np.int64]) -> float:
        right, true, guessed = (int(count.sum()) for count in counts(rows))
        return 2 * right / (true + guessed) if true + guessed else 0.0

    scores: dict[str, float] = {}
    for name, score in {"macro_f1": macro, "micro_f1": micro}.items():
        if name == "macro_f1" or outside is not None:
            scores |= with_interval(name, groups, score, seed)
    scores["accuracy"] = float(np.mean(truth == guess))
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
