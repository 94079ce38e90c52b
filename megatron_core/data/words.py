"""Words and word n-grams: what duplicates and contamination are measured in."""

from __future__ import annotations

import re

import numpy as np
import xxhash
from numpy.typing import NDArray

# A word is a run of characters between spaces and punctuation. \w would break words at the vowel
# signs of Indic scripts, which are marks and no letters.
_WORD = re.compile(
    r"[^\s\x00-\x2f:-@\[-`{-\x7f\u00a1-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf"
    r"\u2000-\u206f\u3000-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]+"
)


def words(text: str) -> list[str]:
    """The words of ``text`` without case; texts that differ in spacing or punctuation alone have
    the same ones. A text of nothing but punctuation is one word."""
    return _WORD.findall(text.casefold()) or [text.strip()]


def ngrams(words: list[str], length: int) -> list[str]:
    """Every run of ``length`` words, joined by spaces; a shorter text is one n-gram."""
    return [
        " ".join(words[start : start + length]) for start in range(max(1, len(words) - length + 1))
    ]


def ngram_hashes(words: list[str], length: int) -> NDArray[np.uint64]:
    """64-bit xxHash of every n-gram of ``words``, in order: shape [n-grams]."""
    hashes = [xxhash.xxh3_64_intdigest(ngram) for ngram in ngrams(words, length)]
    return np.array(hashes, dtype=np.uint64)
