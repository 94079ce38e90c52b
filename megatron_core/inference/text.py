"""The text of a continuation while its tokens come."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_core.data.tokenizer import Tokenizer

_BROKEN = "\ufffd"  # what a decoder writes for bytes that are not, or not yet, a character


class GrowingText:
    """Tokens as text, piece by piece, up to that of some texts to stop at which is whole first.

    A piece is given when no later token can change it: not in the middle of a character, nor
    where a text to stop at may have begun.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, [text for text in stop if text]
        self._tokens: list[int] = []
        self._context = self._read = 0  # tokens before which text is settled, and was read
        self._text = ""
        self._given = 0
        self.stopped = False

    def add(self, token: int) -> str:
        """One more token; the piece of text that is certain now, often nothing."""
        self._tokens.append(token)
        known = self._tokenizer.decode(self._tokens[self._context : self._read])
        longer = self._tokenizer.decode(self._tokens[self._context :])
        if not longer.endswith(_BROKEN) and len(longer) > len(known):
            self._text += longer[len(known) :]
            self._context, self._read = self._read, len(self._tokens)
        place = self._find()
        if place is not None:
            self._text, self.stopped = self._text[:place], True
            return self._give(place)
        return self._give(len(self._text) - self._begun())

    def end(self) -> str:
        """The rest of the text when no more tokens come."""
        if not self.stopped:
            whole = self._tokenizer.decode(self._tokens)
            self._text = self._text[: self._given] + whole[self._given :]
            if (place := self._find()) is not None:
                self._text, self.stopped = self._text[:place], True
        return self._give(len(self._text))

    @property
    def text(self) -> str:
        """All that was given."""
        return self._text[: self._given]

    def _give(self, end: int) -> str:
        piece = self._text[self._given : end]
        self._given = max(self._given, end)
        return piece

    def _find(self) -> int | None:
        """Where the text to stop at begins that is whole first, if one is there."""
        # What was given holds none, nor the beginning of one.
        found = ((self._text.find(text, self._given), len(text)) for text in self._stop)
        ends = ((place + length, place) for place, length in found if place >= 0)
        return min(ends, default=(0, None))[1]

    def _begun(self) -> int:
        """How many characters at the end may be the beginning of a text to stop at."""
        rest = len(self._text) - self._given
        return max(
            (
                size
                for text in self._stop
                for size in range(1, min(len(text), rest + 1))
                if self._text.endswith(text[:size])
            ),
            default=0,
        )
