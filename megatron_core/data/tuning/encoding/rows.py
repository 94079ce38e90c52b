"""Token sequences as rows of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_core.data.datasets.spans import NO_DOCUMENT, PADDING, Frame
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import ConfigError, CorpusError


@dataclass(frozen=True)
class Rows:
    """Sequences, padded on the right.

    Attributes:
        tokens: int64 ``[n, length]``.
        types: int64 ``[n, length]``: 1 for the second text of a pair and the separator after it,
            else 0; None for a decoder.
        documents: int64 ``[n, length]``: 0, or numbers of documents packed together;
            ``NO_DOCUMENT`` where there is padding.
    """

    tokens: Tensor
    types: Tensor | None
    documents: Tensor

    def __len__(self) -> int:
        return len(self.tokens)


def pad(rows: Sequence[Sequence[int]], length: int, value: int) -> Tensor:
    """int64 ``[rows, length]``, ``value`` where a row ends earlier."""
    found = torch.full((len(rows), length), value, dtype=torch.int64)
    for number, row in enumerate(rows):
        found[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return found


def frame_of(tokenizer: Tokenizer) -> Frame:
    """What stands around sequences of an encoder: [CLS] and [SEP].

    Raises:
        CorpusError: the tokenizer has none.
    """
    if tokenizer.class_token is None or tokenizer.separator_token is None:
        raise CorpusError(
            "the tokenizer has no cls_token or no sep_token, which stand around the texts of an "
            "encoder: take one of kind wordpiece"
        )
    return Frame(tokenizer.class_token, tokenizer.separator_token)


class Framing:
    """Texts put into one sequence.

    Framed, for an encoder: [CLS] a [SEP], or [CLS] a [SEP] b [SEP]. Plain, for a decoder: each
    text with the end of document after it.
    """

    def __init__(self, tokenizer: Tokenizer, length: int, *, framed: bool, texts: int = 1) -> None:
        """
        Args:
            tokenizer: Whose control tokens are used.
            length: Tokens of a sequence.
            framed: For an encoder.
            texts: How many texts a sequence has.

        Raises:
            CorpusError: an encoder's tokenizer has no [CLS] or [SEP].
            ConfigError: a sequence has no room for a token of each text.
        """
        self.framed, self.length = framed, length
        frame = frame_of(tokenizer) if framed else None
        self._first = [frame.first] if frame else []
        self._last = frame.last if frame else tokenizer.end_of_document
        self.room = length - len(self._first) - texts
        if self.room < texts:
            raise ConfigError(
                f"a length of {length} leaves {self.room} tokens for {texts} texts and what stands "
                "around them: raise it"
            )

    def start(self, before: int | None = None) -> int:
        """Where a text begins: the first, or the second after one of ``before`` tokens."""
        return len(self._first) + (0 if before is None else before + 1)

    def join(self, texts: Sequence[Sequence[int]]) -> list[int]:
        """One sequence of one or two texts."""
        return [*self._first, *(token for text in texts for token in (*text, self._last))]

    def rows(self, sequences: Sequence[Sequence[Sequence[int]]]) -> Rows:
        """The texts of each sequence as a row; they fit."""
        joined = [self.join(texts) for texts in sequences]
        types = None
        if self.framed:
            kinds = [
                [0] * self.start(len(texts[0])) + [1] * sum(len(text) + 1 for text in texts[1:])
                for texts in sequences
            ]
            types = pad(kinds, self.length, 0)
        return Rows(
            pad(joined, self.length, PADDING), types,
            pad([[0] * len(row) for row in joined], self.length, NO_DOCUMENT),
        )  # fmt: skip


def longest_first(sizes: Sequence[int], room: int) -> list[int]:
    """How much of each text is kept so that all fit into ``room``.

    The longest loses a token at a time, of equal ones the last.
    """
    kept = list(sizes)
    while (excess := sum(kept) - room) > 0:
        most = max(kept)
        longest = [n for n, size in enumerate(kept) if size == most]
        below = max((size for size in kept if size < most), default=0)
        each, rest = divmod(min(excess, (most - below) * len(longest)), len(longest))
        for n in longest:
            kept[n] -= each
        for n in longest[len(longest) - rest :] if rest else []:
            kept[n] -= 1
    return kept
