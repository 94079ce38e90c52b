"""The marks of a pair are found among the tokens, however the text is cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.tuning.encoding.relations import _kept, encode_pairs
from megatron_core.data.tuning.relations import MarkedPair
from tests.tokenizers import KINDS


def pair(before: int, between: int, after: int, swapped: bool) -> MarkedPair:
    one, two = ("# ^ b ^ ab #", "@ * a * cd @") if swapped else ("@ * a * cd @", "# ^ b ^ ab #")
    text = f"{'é ' * before}{one}{' fg' * between} {two}{' h' * after}"
    return MarkedPair("x", text, text.index("@"), text.index("#"), ("a", "b"), "none", "g")


@pytest.mark.parametrize("swapped", [True, False])
@pytest.mark.parametrize("length", [24, 100, 2000])
@pytest.mark.parametrize("kind", KINDS)
def test_marks(folders: dict[str, Path], kind: str, length: int, swapped: bool) -> None:
    tokenizer, framed = Tokenizer.load(folders[kind]), kind == "wordpiece"
    pairs = [pair(*sizes, swapped) for sizes in [(0, 0, 0), (30, 2, 60), (60, 2, 0), (9, 70, 9)]]
    found = encode_pairs(pairs, tokenizer, length=length, framed=framed, classes=("none", "x"))
    assert found.targets.tolist() == [0] * 4
    cut = sum(len(tokenizer.encode(one.text)) > length - 1 - framed for one in pairs)
    assert found.cut == cut
    for row, marks in zip(found.rows.tokens, found.marks.tolist(), strict=True):
        pieces = [tokenizer.decode([int(row[at])]).strip() for at in marks]
        # A tokenizer without the marks has its unknown token, or bytes, in their place.
        expected = [tokenizer.decode(tokenizer.encode(f"é {m}")[-1:]).strip() for m in "@#"]
        assert pieces == expected


def test_both_marks_stay_whatever_is_cut() -> None:
    for count in range(1, 40):
        for first in range(count):
            for second in range(first + 1, count):
                kept = _kept(count, first, second, 11)
                assert len(kept) <= 11
                assert kept == sorted(set(kept))
                assert {first, second} <= set(kept)
                assert kept[0] >= 0
                assert kept[-1] < count
                if second - first < 5:  # in one piece, and nothing is wasted
                    assert kept == list(range(kept[0], kept[0] + min(count, 11)))
