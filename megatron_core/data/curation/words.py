"""Words and sentences as datatrove splits them, without its cost per document."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from typing import Any

from datatrove.utils.word_tokenizers import (
    SpaCyTokenizer,
    WordTokenizer,
    load_word_tokenizer,
)

from megatron_core.errors import ConfigError, MissingExtraError

_CALLS_PER_ZONE = 1000


class ZonedSpaCyTokenizer(SpaCyTokenizer):  # type: ignore[misc]
    """datatrove's spaCy tokenizer, whose memory zone lasts for many texts instead of one.

    A zone forgets at its end every word it has seen, which keeps memory bounded; to learn them
    anew for each text is most of the time of datatrove's own. The words are the same.
    """

    def __init__(self, language: str, config: dict[str, Any] | None = None) -> None:
        super().__init__(language)
        self.config = config
        self._zone = ExitStack()
        self._calls = 0
        # spaCy splits this one word in its first zone and fails on it in all later ones, where
        # datatrove takes it out: from here on every zone is a later one.
        super().word_tokenize("IS_ALPHA")

    def word_tokenize(self, text: str) -> list[str]:
        """The words and marks of ``text``, none of them blank."""
        words = (token.text.strip() for part in self._parts(text) for token in part)
        return [word for word in words if word]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each sentence in ``text``."""
        spans: list[tuple[int, int]] = []
        for part in self._parts(text):
            start = spans[-1][1] if spans else 0
            spans += [(start + s.start_char, start + s.end_char) for s in part.sents]
        return spans

    def _parts(self, text: str) -> list[Any]:
        if self._calls % _CALLS_PER_ZONE == 0:
            self._zone.close()
            self._zone.enter_context(self.tokenizer.memory_zone())
        self._calls += 1
        parts: list[Any] = self._do_tokenize(text)
        return parts


@cache
def word_tokenizer(language: str) -> WordTokenizer:
    """The tokenizer that datatrove assigns to ``language``.

    Raises:
        ConfigError: datatrove has none, or it needs a package that is not installed.
        MissingExtraError: spaCy is not installed.
    """
    try:
        tokenizer = load_word_tokenizer(language)
    except ValueError as error:
        raise ConfigError(
            f"datatrove has no words for the language {language!r}: name it as in its "
            "tokenizer_assignment.csv, such as eng, deu or fra"
        ) from error
    except ImportError as error:
        if "spacy" in str(error):
            raise MissingExtraError("spaCy, which splits words,", "curation") from error
        raise ConfigError(f"the words of {language!r} cannot be split: {error}") from error
    if type(tokenizer) is SpaCyTokenizer:
        return ZonedSpaCyTokenizer(tokenizer.language, tokenizer.config)
    return tokenizer
