"""A synthetic corpus: documents about topics, some of them edited copies of others.

The words follow Zipf's law and every topic has words of its own, so that n-grams repeat about as
they do in text. All of it is a function of the seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from megatron_core.data.documents import Document

_VOCABULARY = 50_000
_TOPICS = 200
_LETTERS = np.array(list("etaoinshrdlucmfwypvbgk"))


@dataclass(frozen=True)
class Corpus:
    """``documents`` texts of about ``words`` words; of these the share ``copies`` are copies of
    an earlier text, with a share of their words replaced that is drawn between 0 and ``edited``.
    """

    documents: int
    words: int = 480
    copies: float = 0.2
    edited: float = 0.06
    seed: int = 1

    def __iter__(self) -> Iterator[Document]:
        """The documents, whose metadata names what a copy was made of and the share replaced."""
        draw = np.random.default_rng(self.seed)
        vocabulary = vocabulary_of(self.seed)
        recent: list[tuple[int, np.ndarray]] = []
        for row in range(self.documents):
            metadata: dict[str, object] = {}
            if recent and draw.random() < self.copies:
                original, words = recent[draw.integers(len(recent))]
                share = self.edited * draw.random()
                words = replaced(words, share, draw)
                metadata = {"copy_of": f"synthetic/{original}", "replaced": round(share, 6)}
            else:
                words = text_of_words(max(8, int(self.words * draw.lognormal(0, 0.5))), draw)
                recent = [*recent[-999:], (row, words)]
            yield Document("synthetic", row, sentences(vocabulary[words]), metadata)


def vocabulary_of(seed: int) -> np.ndarray:
    """The words by their number: str [vocabulary]."""
    draw = np.random.default_rng([seed, 1])
    lengths = draw.integers(2, 11, _VOCABULARY)
    letters = _LETTERS[draw.integers(0, len(_LETTERS), lengths.sum())]
    pieces = np.split(letters, np.cumsum(lengths)[:-1])
    return np.array(["".join(piece) for piece in pieces])


def text_of_words(count: int, draw: np.random.Generator) -> np.ndarray:
    """The numbers of ``count`` words about one topic: int64 [count]."""
    common = np.minimum(draw.zipf(1.3, count) - 1, _VOCABULARY - 1)
    topic = draw.integers(_TOPICS) * (_VOCABULARY // _TOPICS)
    of_topic = topic + draw.integers(0, _VOCABULARY // _TOPICS, count)
    return np.where(draw.random(count) < 0.5, common, of_topic)


def replaced(words: np.ndarray, share: float, draw: np.random.Generator) -> np.ndarray:
    """``words`` with a ``share`` of them, at random places, drawn anew."""
    return np.where(
        draw.random(len(words)) < share, draw.integers(0, _VOCABULARY, len(words)), words
    )


def sentences(words: np.ndarray) -> str:
    """The words as sentences of twelve, two to a line."""
    lines = [" ".join(words[start : start + 12]).capitalize() for start in range(0, len(words), 12)]
    return "".join(line + (".\n" if n % 2 else ". ") for n, line in enumerate(lines)).rstrip()
