"""Numbers, names and differences in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.reporting import wording
from megatron_core.reporting.wording import Piece, mark_differences


@pytest.mark.parametrize(
    ("number", "shown", "in_words"),
    [
        (12345, "12,345", "12,345"),
        (999_400, "999,400", "999,400"),
        (3_221_952, "3.22 M", "3.22 million"),
        (999_600_000, "1 B", "1 billion"),
        (8_030_000_000, "8.03 B", "8.03 billion"),
    ],
)
def test_amounts(number: int, shown: str, in_words: str) -> None:
    assert wording.amount(number).split() == shown.split()
    assert wording.amount_in_words(number).split() == in_words.split()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.44, "0.4 s"), (9.97, "10 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"),
        (3599.7, "1 h 0 min"), (7500, "2 h 5 min"),
    ],
)  # fmt: skip
def test_durations(seconds: float, shown: str) -> None:
    assert wording.duration(seconds).split() == shown.split()


def test_a_number_stays_with_its_unit() -> None:
    assert wording.percent(0.25) == "25.0\u00a0%"
    assert wording.duration(200) == "3\u00a0min 20\u00a0s"
    assert wording.amount(2_500_000) == "2.5\u00a0M"


def test_lists_and_plurals() -> None:
    assert [wording.listing(list(items)) for items in ("", "a", "ab", "abc")] == [
        "", "a", "a and b", "a, b and c"
    ]  # fmt: skip
    assert wording.plural(1, "document") == "1 document"
    assert wording.plural(1200, "document") == "1,200 documents"


def test_differing_words_are_marked() -> None:
    ours, theirs = mark_differences("a low level of iron", "a high level of iron")
    assert ours == [Piece("a", False), Piece("low", True), Piece("level of iron", False)]
    assert theirs == [Piece("a", False), Piece("high", True), Piece("level of iron", False)]


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_pieces_hold_both_texts(ours: list[str], theirs: list[str]) -> None:
    left, right = mark_differences(" ".join(ours), " ".join(theirs))
    assert " ".join(piece.text for piece in left).split() == ours
    assert " ".join(piece.text for piece in right).split() == theirs
    common = [[p.text for p in side if not p.differs] for side in (left, right)]
    assert common[0] == common[1]
