"""ROUGE against counts of n-grams and a plain longest common subsequence."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_core.evaluation.rouge import lead_baseline, rouge_scores

TEXTS = st.lists(st.sampled_from(["pain", "no", "5mg", "the", "Pains"]), max_size=8).map(" ".join)


def f1(shared: int, first: int, second: int) -> float:
    return 2 * shared / (first + second) if shared else 0.0


def grams(words: list[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[n : n + size]) for n in range(len(words) - size + 1))


def common(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + common(a[:-1], b[:-1])
    return max(common(a[:-1], b), common(a, b[:-1]))


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8))
def test_of_summaries(pairs: list[tuple[str, str]]) -> None:
    summaries, guesses = zip(*pairs, strict=True)
    found = rouge_scores(summaries, guesses, [str(n) for n in range(len(pairs))])
    split = [(a.lower().split(), b.lower().split()) for a, b in pairs]
    for size in (1, 2):
        each = [(grams(a, size), grams(b, size)) for a, b in split]
        expected = [f1((a & b).total(), a.total(), b.total()) for a, b in each]
        assert found[f"rouge_{size}"] == pytest.approx(sum(expected) / len(pairs))
    longest = [f1(common(a, b), len(a), len(b)) for a, b in split]
    assert found["rouge_l"] == pytest.approx(sum(longest) / len(pairs))


def test_the_mean_over_summaries_and_stems() -> None:
    found = rouge_scores(["no pains", "x"], ["no pain", "x"], ["1", "2"])
    assert found["rouge_1"] == pytest.approx((0.5 + 1) / 2)
    assert found["rouge_1_low"] == 0.5
    assert found["rouge_1_high"] == 1.0
    assert rouge_scores(["no pains"], ["no pain"], ["1"], stem=True)["rouge_2"] == 1.0


def test_the_lead() -> None:
    text = " Doctor: How are you? Fine.\nPatient: ok"
    assert lead_baseline([text, ""]) == ["Doctor: How are you?", ""]
    assert lead_baseline([text], 3) == ["Doctor: How are you? Fine. Patient: ok"]
