"""Words and n-grams against what a reader would count, and a regular expression."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.data.words import Words
from megatron_core.data.xxh64 import hash_slices

# Spaces and punctuation of ASCII and Latin-1, of Arabic, Hindi, Chinese and typesetting; or a
# Chinese or Japanese character.
BETWEEN = (
    r"\s\x00-\x2f:-@\[-`{-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u060c\u061b\u061f\u06d4"
    r"\u0964\u0965\u2000-\u206f\u3000-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
WHOLE = r"\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(f"[{WHOLE}]|[^{BETWEEN}{WHOLE}]+")


def listed(words: Words) -> list[str]:
    return [words.ngram(i, 1) for i in range(len(words))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat, the CAT!", ["the", "cat", "the", "cat"]),
        ("«Straße» — 3.5 km", ["strasse", "3", "5", "km"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया"]),  # vowel signs stay within their word
        ("我是Li。𠀀a", ["我", "是", "li", "𠀀", "a"]),
        ("ひと 🙂🙂", ["ひ", "と", "🙂🙂"]),
        (" … !? ", ["… !?"]),
        ("", [""]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert listed(Words.of(text)) == expected


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("aB1 .,ß我カ𠀀।"), max_size=30))
def test_words_are_those_of_the_expression(text: str) -> None:
    assert listed(Words.of(text)) == (WORD.findall(text.casefold()) or [text.casefold().strip()])


def test_every_character_that_python_takes_for_a_space_divides() -> None:
    spaces = [c for c in map(chr, range(sys.maxunicode)) if c.isspace()]
    assert [c for c in spaces if len(Words.of(f"a{c}b")) != 2] == []


def test_ngrams_of_a_short_text_are_the_text() -> None:
    assert Words.of("a b c").ngram(1, 2) == "b c"
    assert Words.of("A b").ngram(0, 3) == "a b"


@given(
    st.lists(st.sampled_from(["a", "bc", "我", "é"]), min_size=1, max_size=12), st.integers(1, 5)
)
def test_hashes_follow_the_ngrams(words: list[str], length: int) -> None:
    hashes = Words.of(" ".join(words)).ngram_hashes(length).tolist()
    windows = [words[i : i + length] for i in range(len(words)) if i + length <= len(words)]
    assert hashes == [xxhash.xxh64_intdigest(" ".join(w)) for w in windows or [words]]


@pytest.mark.parametrize("before", [0, 3])
def test_hash_is_that_of_the_library(before: int) -> None:
    """Every length up to three rounds of the long form, and a last part of every kind."""
    data = np.random.default_rng(before).integers(0, 256, 140, dtype=np.uint8)
    ends = np.arange(before, len(data))
    found = hash_slices(data, np.full_like(ends, before), ends)
    assert found.tolist() == [xxhash.xxh64_intdigest(data[before:end].tobytes()) for end in ends]
