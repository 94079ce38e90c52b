"""Strict scores of entities beside seqeval's, and the dictionary."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_core.errors import ReforgeError
from megatron_core.evaluation.entities import dictionary_baseline, entity_scores

TAGS = st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B", "B-C-x", "I-C-x"])
SENTENCES = st.lists(
    st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=9), min_size=1, max_size=6
)


@settings(deadline=None, max_examples=60)
@given(SENTENCES)
def test_scores_are_those_of_seqeval(sentences: list[list[tuple[str, str]]]) -> None:
    from seqeval.metrics import classification_report
    from seqeval.scheme import IOB2

    true, guess = ([[pair[side] for pair in one] for one in sentences] for side in (0, 1))
    found = entity_scores(true, guess, [str(n) for n in range(len(true))])
    if not found["types"]:
        assert found["micro_f1"] == found["macro_f1"] == 0
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = classification_report(
            true, guess, scheme=IOB2, output_dict=True, zero_division=0, mode="strict"
        )
    assert found["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    assert found["entities"] == report["micro avg"]["support"]
    names = {"precision": "precision", "recall": "recall", "f1": "f1-score"}
    for ours, theirs in names.items():
        assert found[f"micro_{ours}"] == pytest.approx(report["micro avg"][theirs])
        for kind, scores in found["types"].items():
            assert scores[ours] == pytest.approx(report[kind][theirs])
    averages = {"micro avg", "macro avg", "weighted avg"}
    assert set(found["types"]) == set(report) - averages


def test_whole_documents_are_resampled() -> None:
    true, guess = [["B-A"], ["B-A"]], [["B-A"], ["O"]]
    apart = entity_scores(true, guess, ["1", "2"])
    assert (apart["micro_f1_low"], apart["micro_f1_high"]) == (0.0, 1.0)
    one = entity_scores(true, guess, ["1", "1"])
    assert one["micro_f1_low"] == one["micro_f1"] == one["micro_f1_high"] == pytest.approx(2 / 3)


def test_tags_must_be_as_many_as_words() -> None:
    with pytest.raises(ReforgeError, match="not as many as the words"):
        entity_scores([["O", "O"]], [["O"]], ["1"])


def test_the_dictionary() -> None:
    words = [["Lung", "cancer", "and", "ALL", "cancer"], ["Cancer", "of", "XY"], ["XY", "XY"]]
    tags = [["B-D", "I-D", "O", "B-D", "I-D"], ["B-D", "O", "B-G"], ["B-D", "B-G"]]
    seen = [
        ["all", "lung", "CANCER", "cancer", "ALL", "CANCER", "XY", "xy", "lung", "Lung", "Cancer"]
    ]
    found = dictionary_baseline(words, tags, seen)
    assert found == [
        ("O", "B-D", "I-D", "B-D", "B-D", "I-D", "B-G", "O", "O", "B-D", "I-D")
    ]  # fmt: skip
    assert dictionary_baseline(words, [["O"] * len(w) for w in words], seen) == [("O",) * 11]


def test_of_equal_types_the_first_by_name() -> None:
    found = dictionary_baseline([["ab"], ["ab"]], [["B-Y"], ["B-X"]], [["ab"]])
    assert found == [("B-X",)]
