"""Words and sentences of running text, by their places."""

from __future__ import annotations

import re
from typing import NamedTuple

from megatron_core.data.words import SPACES_AND_PUNCTUATION

_MARKS = "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in SPACES_AND_PUNCTUATION)
_WORD = re.compile(rf"[0-9]+|[^0-9{_MARKS}]+|\S")
_SENTENCE_END = re.compile(r"[^\S\n]*\n\s*|(?<=[.?!])\s+(?![a-z])")


class Word(NamedTuple):
    """A word of a text: the characters ``start … stop - 1``."""

    text: str
    start: int
    stop: int


def split_words(text: str) -> tuple[Word, ...]:
    """Runs of digits, runs of what is neither digit, space nor punctuation, and every other mark.

    ``5mg/day`` is 5, mg, /, day. Nothing but white space is between two words.
    """
    return tuple(Word(m[0], m.start(), m.end()) for m in _WORD.finditer(text))


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Where sentences start and stop: at an end of line, and after ``.?!`` and white space.

    White space before a lower-case letter of a-z ends none. There is no list of abbreviations, so
    ``Dr. Smith`` is cut.
    """
    found, start = [], len(text) - len(text.lstrip())
    for end in _SENTENCE_END.finditer(text, start):
        if end.start() > start:
            found.append((start, end.start()))
        start = end.end()
    stop = len(text.rstrip())
    if stop > start:
        found.append((start, stop))
    return found
