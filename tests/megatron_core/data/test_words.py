"""Words and n-grams against what a reader would count."""

from __future__ import annotations

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.data.words import ngram_hashes, ngrams, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat, the CAT!", ["the", "cat", "the", "cat"]),
        ("«Straße» — 3.5 km", ["strasse", "3", "5", "km"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया।"]),  # vowel signs stay within their word
        ("…!?", ["…!?"]),
        ("", [""]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_ngrams_of_a_short_text_are_the_text() -> None:
    assert ngrams(["a", "b", "c"], 2) == ["a b", "b c"]
    assert ngrams(["a", "b"], 3) == ["a b"]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.integers(1, 5))
def test_hashes_follow_the_ngrams(words: list[str], length: int) -> None:
    hashes = ngram_hashes(words, length).tolist()
    windows = [words[i : i + length] for i in range(len(words)) if i + length <= len(words)]
    assert hashes == [xxhash.xxh3_64_intdigest(" ".join(w)) for w in windows or [words]]
