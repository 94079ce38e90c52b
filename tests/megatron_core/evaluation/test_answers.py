"""Exact match and token F1 against a plain count, and published examples of the rules."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.evaluation.answers import (
    answer_scores,
    exact_match,
    first_words_baseline,
    token_f1,
    unanswered_baseline,
)

TEXTS = st.lists(
    st.sampled_from(["a", "The", "an", "pain", "Pain.", "(no)", "5", "mg", "the-", " ", "a.b"]),
    max_size=6,
).map(" ".join)


def words(text: str) -> list[str]:
    """Without punctuation, case and articles, letter by letter."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return [word for word in kept.split() if word not in ("a", "an", "the")]


@given(TEXTS, TEXTS)
def test_of_two_texts(answer: str, guess: str) -> None:
    left, shared = words(guess), 0
    for word in words(answer):
        if word in left:
            left.remove(word)
            shared += 1
    true, given = len(words(answer)), len(words(guess))
    expected = float(true == given)
    if true and given:
        precision, recall = shared / given, shared / true
        expected = 2 * precision * recall / (precision + recall) if shared else 0.0
    elif true or given:
        expected = 0.0
    assert token_f1(answer, guess) == pytest.approx(expected)
    assert exact_match(answer, guess) == float(words(answer) == words(guess))


def test_the_nearest_answer_counts_and_none_is_empty() -> None:
    answers = [["chest pain", "the pain"], [], ["x"], []]
    predicted = ["Pain!", "", "", "y"]
    found = answer_scores(answers, predicted, ["1", "2", "3", "4"])
    assert found["exact_match"] == found["f1"] == 0.5
    assert found["f1_low"] < 0.5 < found["f1_high"]
    assert answer_scores([["chest pain"]], ["pain"], ["1"])["f1"] == pytest.approx(2 / 3)


def test_baselines() -> None:
    assert unanswered_baseline(2) == ["", ""]
    assert first_words_baseline(["a b  c\nd e f g", "h"]) == ["a b c d e", "h"]
