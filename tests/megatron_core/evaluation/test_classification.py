"""Scores of a classifier against counts by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from megatron_core.evaluation.classification import (
    classification_scores,
    majority_baseline,
    tfidf_baseline,
)

TRUTH = list("aaaabbbc")
GUESS = list("aabbbbaa")
# a: 2 of 4 found, 2 of 4 guesses right; b: 2 of 3 and 2 of 4; c: none. F1 = 1/2, 4/7, 0.
MACRO = (1 / 2 + 4 / 7 + 0) / 3


@pytest.fixture(autouse=True, scope="module")
def few_resamples() -> Iterator[None]:
    """Enough for the tests, in a fraction of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("megatron_core.evaluation.intervals.RESAMPLES", 30)
        yield


def test_scores_are_those_by_hand() -> None:
    scores = classification_scores(TRUTH, GUESS, groups=[str(i) for i in range(8)])
    assert scores["macro_f1"] == pytest.approx(MACRO)
    assert scores["accuracy"] == 4 / 8
    assert scores["macro_f1_low"] < scores["macro_f1"] < scores["macro_f1_high"]


def test_a_class_that_is_guessed_but_never_true_counts_for_nothing() -> None:
    scores = classification_scores(["a", "a"], ["a", "z"], groups=["1", "2"])
    assert scores["macro_f1"] == pytest.approx(2 / 3)  # of a alone: precision 1, recall 1/2


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from("abcn"), st.sampled_from("abcnz")), min_size=1, max_size=30)
)
def test_scores_are_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    """Macro over the classes that are true, micro over those on either side."""
    truth, guess = (list(side) for side in zip(*pairs, strict=True))
    found = classification_scores(truth, guess, ["one"] * len(pairs), outside="n")
    for average, among in (("macro", {*truth}), ("micro", {*truth, *guess})):
        classes = sorted(among - {"n"})
        expected = 0.0
        if classes:
            expected = f1_score(truth, guess, labels=classes, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)


def test_whole_groups_are_resampled() -> None:
    """One group has one resample: itself."""
    scores = classification_scores(TRUTH, GUESS, groups=["same"] * 8)
    assert scores["macro_f1_low"] == scores["macro_f1"] == scores["macro_f1_high"]


def test_the_interval_narrows_with_more_groups() -> None:
    def width(copies: int) -> float:
        groups = [str(i) for i in range(8 * copies)]
        scores = classification_scores(TRUTH * copies, GUESS * copies, groups)
        assert scores["macro_f1"] == pytest.approx(MACRO)
        return scores["macro_f1_high"] - scores["macro_f1_low"]

    assert width(40) < width(2) / 2


def test_the_majority_is_the_commonest_label() -> None:
    assert majority_baseline(["b", "a", "b", "c"], 3) == ["b", "b", "b"]
    assert majority_baseline(["b", "a", "c", "a", "b"], 2) == ["a", "a"]


def test_tfidf_tells_texts_by_their_words() -> None:
    texts = ["fracture of femur", "fracture of hand", "type 2 diabetes", "diabetes with coma"] * 3
    labels = ["injury", "injury", "endocrine", "endocrine"] * 3
    found = tfidf_baseline(texts, labels, ["fracture of skull", "diabetes of pregnancy"])
    assert found == ["injury", "endocrine"]


def test_relations_count_without_their_none() -> None:
    truth, guess = list("aannnb"), list("anannb")
    found = classification_scores(truth, guess, [str(n) for n in range(6)], outside="n")
    # a: 1 right of 2 and 2; b: 1 of 1 and 1. Together 2 of 3 and 3.
    assert found["micro_f1"] == pytest.approx(2 / 3)
    assert found["micro_f1_low"] < found["micro_f1"] <= found["micro_f1_high"]
    assert found["macro_f1"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["accuracy"] == pytest.approx(4 / 6)
    wrong = classification_scores(["a", "n"], ["a", "z"], ["1", "2"], outside="n")
    assert wrong["micro_f1"] == pytest.approx(2 / 3)  # z is wrong, though nothing is a z
    assert "micro_f1" not in classification_scores(truth, guess, [str(n) for n in range(6)])


def test_tfidf_tells_which_side_of_a_pair_a_word_is_on() -> None:
    pairs = [("no pain", "pain"), ("pain", "no pain")] * 6
    labels = ["contradiction", "other"] * 6
    assert tfidf_baseline(pairs, labels, [("no fever", "fever"), ("fever", "no")]) == [
        "contradiction", "other"
    ]  # fmt: skip
