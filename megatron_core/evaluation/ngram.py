"""N-gram models of tokens: the baselines that a language model must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_core.errors import CorpusError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class _Level:
    """What was seen at one order, sorted by key; a key is an n-gram read as a number.

    ``weights`` is the discounted share of an n-gram in its context, ``backoff`` the share that
    a context leaves to the next shorter one.
    """

    keys: Integers
    weights: Floats
    contexts: Integers
    backoff: Floats


class NGramModel:
    """A distribution over the next token given at most ``order - 1`` tokens before it.

    Order 1 counts tokens and adds one to each. Orders 2 and 3 are interpolated modified
    Kneser-Ney (Chen & Goodman, "An Empirical Study of Smoothing Techniques for Language
    Modeling", 1999), down to the uniform distribution over the vocabulary: every token has a
    probability above 0, and they sum to 1 in every context.

    A stream starts from a context of its own, "nothing before"; it is never predicted.
    """

    def __init__(self, order: int, vocabulary: int) -> None:
        if not 1 <= order <= 3:
            raise ValueError(f"order is 1, 2 or 3, not {order}")
        if (vocabulary + 1) ** order >= 2**63:
            raise ValueError(f"{order}-grams of {vocabulary} tokens do not fit 64-bit keys")
        self.order = order
        self.vocabulary = vocabulary
        self._base = vocabulary + 1  # One more symbol stands for "nothing before".
        self._unigrams: Floats = np.full(vocabulary, 1 / vocabulary)
        self._levels: list[_Level] = []

    def fit(self, streams: Sequence[NDArray[Any]]) -> NGramModel:
        """Count the 1-D token ``streams``, forgetting what was fitted before; returns self.

        Raises:
            CorpusError: there are no tokens, or one is outside the vocabulary.
        """
        keys = [self._keys(self._checked(stream), self.order) for stream in streams]
        seen, counts = np.unique(np.concatenate([np.empty(0, np.int64), *keys]), return_counts=True)
        if not len(seen):
            raise CorpusError("no tokens to fit an n-gram model on: are the datasets empty?")
        self._levels = []
        for order in range(self.order, 1, -1):
            self._levels.append(self._level(seen, counts))
            # Kneser-Ney: a shorter n-gram counts once per token seen before it.
            seen, counts = np.unique(seen % self._base ** (order - 1), return_counts=True)
        self._levels.reverse()
        dense = np.zeros(self.vocabulary)
        dense[seen] = counts
        if self.order == 1:
            self._unigrams = (dense + 1) / (dense.sum() + self.vocabulary)
        else:
            discounts = _discounts(counts)[np.minimum(dense, 3).astype(np.int64)]
            left = discounts.sum() / self.vocabulary
            self._unigrams = (dense - discounts + left) / dense.sum()
        return self

    def score(self, stream: NDArray[Any]) -> Floats:
        """Natural log of the probability of each token given those before it, float64[n].

        Raises:
            CorpusError: a token is outside the vocabulary.
        """
        tokens = self._checked(stream)
        probabilities = self._unigrams[tokens]
        for order, level in enumerate(self._levels, start=2):
            keys = self._keys(tokens, order)
            backoff = _look_up(level.contexts, level.backoff, keys // self._base, missing=1.0)
            weights = _look_up(level.keys, level.weights, keys, missing=0.0)
            probabilities = weights + backoff * probabilities
        return np.log(probabilities)

    def _checked(self, stream: NDArray[Any]) -> Integers:
        tokens = np.asarray(stream).astype(np.int64)
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.vocabulary:
            raise CorpusError(
                f"a token from {tokens.min()} to {tokens.max()} is outside the vocabulary of "
                f"{self.vocabulary}: the datasets were made with another tokenizer"
            )
        return tokens

    def _keys(self, tokens: Integers, order: int) -> Integers:
        """The ``order``-gram that ends at each token, as one number."""
        n = len(tokens)
        padded = np.concatenate([np.full(order - 1, self.vocabulary, np.int64), tokens])
        keys = np.zeros(n, np.int64)
        for i in range(order):
            keys = keys * self._base + padded[i : i + n]
        return keys

    def _level(self, keys: Integers, counts: Integers) -> _Level:
        contexts, first = np.unique(keys // self._base, return_index=True)
        discounts = _discounts(counts)[np.minimum(counts, 3)]
        totals = np.add.reduceat(counts, first)
        spread = np.repeat(totals, np.diff(first, append=len(keys)))
        return _Level(
            keys=keys,
            weights=(counts - discounts) / spread,
            contexts=contexts,
            backoff=np.add.reduceat(discounts, first) / totals,
        )


def _discounts(counts: Integers) -> Floats:
    """What to take from counts of 0, 1, 2 and 3 or more.

    Counts of counts too small for the estimate, or not falling as those of a language do, give
    0.5, 1 and 1.5, as in KenLM.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(np.float64)
    if n[1:5].all():
        y = n[1] / (n[1] + 2 * n[2])
        estimates = np.array([i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3)])
        if (estimates > 0).all():
            return np.concatenate([[0.0], estimates])
    return np.array([0.0, 0.5, 1.0, 1.5])


def _look_up(keys: Integers, values: Floats, wanted: Integers, missing: float) -> Floats:
    """The value of each wanted key in the sorted ``keys``."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], missing)
