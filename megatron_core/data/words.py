"""Words and word n-grams: what duplicates and contamination are measured in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_core.data.compiled import compiled
from megatron_core.data.xxh64 import hash_slices

_PART, _BETWEEN, _WHOLE = 0, 1, 2  # of a word, between words, a word of its own

# By ranges and not by Unicode's categories, which differ between releases of Python; and letters
# alone would break words at the vowel signs of Indic scripts, which are marks.
SPACES_AND_PUNCTUATION = (
    (0x00, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0xA9), (0xAB, 0xB4), (0xB6, 0xB9),
    (0xBB, 0xBF), (0x060C, 0x060C), (0x061B, 0x061B), (0x061F, 0x061F), (0x06D4, 0x06D4),
    (0x0964, 0x0965), (0x1680, 0x1680), (0x2000, 0x206F), (0x3000, 0x303F), (0xFF01, 0xFF0F),
    (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF65),
)  # fmt: skip
_KANA_AND_IDEOGRAPHS = (
    (0x3041, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
)  # fmt: skip


def _kinds() -> NDArray[np.uint8]:
    kinds = np.zeros(1 << 16, dtype=np.uint8)
    for kind, ranges in ((_BETWEEN, SPACES_AND_PUNCTUATION), (_WHOLE, _KANA_AND_IDEOGRAPHS)):
        for first, last in ranges:
            kinds[first : last + 1] = kind
    return kinds


_KINDS = _kinds()


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text, without case: texts that differ in spacing or punctuation alone have
    the same ones.

    A word is a run of characters between spaces and punctuation; in Chinese and Japanese, which
    write no spaces, it is a single character. Numbers and accents count: documents that differ in
    a dose or a date are different documents. A text of nothing but punctuation is one word.

    ``joined`` is the UTF-8 bytes of the words with single spaces between, uint8 [bytes], and
    ``starts`` where each begins, int64 [words + 1]; the last is where one more would begin. So
    every n-gram is a slice of ``joined``.
    """

    joined: NDArray[np.uint8]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, text: str) -> Words:
        """The words of ``text``."""
        folded = text.casefold()
        joined, starts = _split(np.frombuffer(folded.encode(), dtype=np.uint8))
        if len(starts) == 1:
            joined = np.frombuffer(folded.strip().encode(), dtype=np.uint8)
            starts = np.array([0, len(joined) + 1])
        return cls(joined, starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def ngram(self, first: int, length: int) -> str:
        """``length`` words from word ``first`` on, or as many as there are."""
        end = self.starts[min(first + length, len(self))] - 1
        return self.joined[self.starts[first] : end].tobytes().decode()

    def ngram_hashes(self, length: int) -> NDArray[np.uint64]:
        """64-bit xxHash of every n-gram of ``length`` words, in order: uint64 [n-grams].

        A shorter text is one n-gram.
        """
        length = min(length, len(self))
        return hash_slices(self.joined, self.starts[:-length], self.starts[length:] - 1)


@compiled
def _split(text: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """``joined`` and ``starts`` of UTF-8 bytes."""
    joined = np.empty(len(text) + len(text) // 3 + 1, dtype=np.uint8)
    starts = np.empty(len(text) // 2 + 2, dtype=np.int64)
    words = place = written = 0
    inside = False
    while place < len(text):
        size, kind = _character(text, place)
        if kind == _BETWEEN:
            inside = False
        else:
            if kind == _WHOLE or not inside:
                if words:
                    joined[written] = 32
                    written += 1
                starts[words] = written
                words += 1
                inside = kind != _WHOLE
            for i in range(size):
                joined[written + i] = text[place + i]
            written += size
        place += size
    starts[words] = written + 1
    return joined[:written].copy(), starts[: words + 1].copy()


@compiled
def _character(text: NDArray[np.uint8], place: int) -> tuple[int, int]:
    """Bytes and kind of the character that begins at ``place`` of valid UTF-8."""
    first = np.int64(text[place])
    if first < 0x80:
        return 1, _KINDS[first]
    second = np.int64(text[place + 1]) & 0x3F
    if first < 0xE0:
        return 2, _KINDS[(first & 0x1F) << 6 | second]
    third = np.int64(text[place + 2]) & 0x3F
    if first < 0xF0:
        return 3, _KINDS[(first & 0x0F) << 12 | second << 6 | third]
    plane = (first & 0x07) << 2 | second >> 4
    return 4, _WHOLE if plane == 2 or plane == 3 else _PART  # two planes of ideographs
