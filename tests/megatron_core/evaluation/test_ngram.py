"""N-gram models against a dictionary-and-loops implementation of the published formulas."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from megatron_core.errors import CorpusError
from megatron_core.evaluation.ngram import NGramModel

VOCABULARY = 30
START = "start"


def text(length: int, seed: int) -> NDArray[np.uint16]:
    """Tokens with a falling frequency and some memory, so that all discounts are estimated."""
    generator = np.random.default_rng(seed)
    tokens = [0]
    for draw in generator.zipf(1.4, length):
        step = tokens[-1] * 7 if generator.random() < 0.5 else 0
        tokens.append(int(draw + step) % (VOCABULARY - 1))  # the last token is never seen
    return np.array(tokens[1:], np.uint16)


class Naive:
    """Interpolated modified Kneser-Ney by the book: Chen & Goodman (1999), section 3."""

    def __init__(self, order: int, streams: list[NDArray[np.uint16]]) -> None:
        occurrences: Counter[tuple[object, ...]] = Counter()
        for stream in streams:
            padded = [START] * (order - 1) + stream.tolist()
            for i in range(order - 1, len(padded)):
                occurrences[tuple(padded[i - order + 1 : i + 1])] += 1
        self.order = order
        self.counts = {order: occurrences}
        for n in range(order - 1, 0, -1):
            # N1+(• gram): how many different tokens come before it.
            self.counts[n] = Counter(gram[1:] for gram in self.counts[n + 1])

    def discount(self, n: int, count: int) -> float:
        if count == 0:
            return 0.0
        n1, n2, n3, n4 = (sum(c == i for c in self.counts[n].values()) for i in (1, 2, 3, 4))
        if 0 in (n1, n2, n3, n4):
            return min(count, 3) / 2
        y = n1 / (n1 + 2 * n2)
        estimates = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if min(estimates) <= 0:
            return min(count, 3) / 2
        return estimates[min(count, 3) - 1]

    def probability(self, context: tuple[object, ...], token: int) -> float:
        n = len(context) + 1
        shorter = self.probability(context[1:], token) if n > 1 else 1 / VOCABULARY
        following = {g: c for g, c in self.counts[n].items() if g[:-1] == context}
        if not following:
            return shorter
        total = sum(following.values())
        count = self.counts[n][(*context, token)]
        left = sum(self.discount(n, c) for c in following.values()) / total
        return (count - self.discount(n, count)) / total + left * shorter

    def score(self, stream: NDArray[np.uint16]) -> list[float]:
        padded = (START,) * (self.order - 1) + tuple(stream.tolist())
        return [
            math.log(self.probability(padded[i : i + self.order - 1], padded[i + self.order - 1]))
            for i in range(len(stream))
        ]


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("length", [40, 700])
def test_agrees_with_the_published_formulas(order: int, length: int) -> None:
    streams = [text(length, 1), text(length // 2, 2)]
    unseen = np.append(text(150, 3), VOCABULARY - 1)
    scores = NGramModel(order, VOCABULARY).fit(streams).score(unseen)
    np.testing.assert_allclose(scores, Naive(order, streams).score(unseen), rtol=1e-9)


def test_the_long_text_has_estimated_discounts() -> None:
    """Else the test above would see only the fixed ones."""
    naive = Naive(3, [text(700, 1), text(350, 2)])
    assert naive.discount(3, 1) != 0.5
    assert naive.discount(2, 1) != 0.5


def test_order_one_adds_one() -> None:
    model = NGramModel(1, 4).fit([np.array([0, 0, 1]), np.array([0])])
    expected = np.log(np.array([4, 2, 1, 1]) / 8)
    np.testing.assert_allclose(model.score(np.arange(4)), expected, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_sums_to_one_in_every_context(order: int) -> None:
    model = NGramModel(order, VOCABULARY).fit([text(700, 1), text(350, 2)])
    contexts = np.random.default_rng(4).integers(0, VOCABULARY, (50, 2))
    for context in [[], [3], *contexts.tolist()]:
        scores = [model.score(np.array([*context, token]))[-1] for token in range(VOCABULARY)]
        assert np.exp(scores).sum() == pytest.approx(1, abs=1e-12)


def test_context_helps_on_a_text_with_memory() -> None:
    streams, unseen = [text(20_000, 1)], text(5_000, 2)
    losses = [-NGramModel(n, VOCABULARY).fit(streams).score(unseen).mean() for n in (1, 2)]
    assert losses[1] < losses[0] - 0.2


def test_streams_do_not_touch() -> None:
    model = NGramModel(3, VOCABULARY)
    apart = model.fit([text(300, 1), text(300, 2)]).score(text(50, 3))
    swapped = model.fit([text(300, 2), text(300, 1)]).score(text(50, 3))
    joined = model.fit([np.concatenate([text(300, 1), text(300, 2)])]).score(text(50, 3))
    np.testing.assert_array_equal(apart, swapped)
    assert (apart != joined).any()


def test_large_vocabulary_and_no_tokens_to_score() -> None:
    model = NGramModel(3, 1_000_000).fit([np.array([999_999, 0, 999_999, 5])])
    assert model.score(np.empty(0, np.int32)).shape == (0,)
    assert np.isfinite(model.score(np.array([999_999, 0, 999_998]))).all()


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="order is 1, 2 or 3, not 4"):
        NGramModel(4, 10)
    with pytest.raises(ValueError, match="64-bit keys"):
        NGramModel(3, 3_000_000)
    with pytest.raises(CorpusError, match="no tokens"):
        NGramModel(2, 10).fit([np.empty(0, np.uint16)])
    with pytest.raises(CorpusError, match="outside the vocabulary of 10"):
        NGramModel(2, 10).fit([np.array([1, 10])])
