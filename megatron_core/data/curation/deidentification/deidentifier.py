"""The whole of de-identification: find, resolve, replace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import regex

from megatron_core.config.corpus.curate import Deidentify, PhiClass
from megatron_core.data.curation.deidentification.contacts import Contacts
from megatron_core.data.curation.deidentification.dates import find_ages, find_dates
from megatron_core.data.curation.deidentification.names import Names
from megatron_core.data.curation.deidentification.numbers import Numbers
from megatron_core.data.curation.deidentification.places import Places
from megatron_core.data.curation.deidentification.spans import Placeholders, Span, resolve
from megatron_core.data.curation.deidentification.vocabulary import load_vocabulary

_NOT_TEXT = regex.compile(r"[^\p{L}\p{M}\p{N}]+")


@dataclass(frozen=True)
class Deidentified:
    """A text with placeholders, and how many of each class."""

    text: str
    counts: dict[str, int]


class Deidentifier:
    """Finds the identifiers of HIPAA's Safe Harbor (45 CFR 164.514(b)(2)) and replaces them.

    The numbers with a form of their own are found by presidio's recognizers, the rest by the
    words that stand before them in clinical notes and by philter's lists of names and of words
    that are none (Norgeot et al., 2020). A text is looked at alone: what is found does not depend
    on other documents.

    Raises:
        MissingExtraError: presidio-analyzer or philter-lite is not installed.
        ConfigError: a region that phonenumbers does not know.
    """

    def __init__(self, config: Deidentify) -> None:
        self._config = config
        vocabulary = load_vocabulary()
        contacts, numbers = Contacts(config.region), Numbers(vocabulary)
        self._finders = (
            contacts.find, numbers.find, find_dates, find_ages,
            Places(vocabulary).find, Names(vocabulary).find,
        )  # fmt: skip

    def find(self, text: str) -> list[Span]:
        """The identifiers of the chosen classes in ``text``, in its order, none overlapping."""
        placeholders = Placeholders(text)
        return resolve(
            span
            for finder in self._finders
            for span in finder(text)
            if span.kind in self._config.classes and not placeholders.touch(span)
        )

    def replace(self, text: str) -> Deidentified:
        """``text`` with a placeholder for each identifier."""
        spans = self.find(text)
        counts = Counter(span.kind for span in spans)
        return Deidentified(
            _replaced(text, spans, self._config.consistent), dict(sorted(counts.items()))
        )


def _replaced(text: str, spans: Sequence[Span], consistent: bool) -> str:
    pieces, end = [], 0
    numbers: dict[PhiClass, dict[str, int]] = {}
    for span in spans:
        number = ""
        if consistent:
            seen = numbers.setdefault(span.kind, {})
            key = _NOT_TEXT.sub(" ", text[span.start : span.end]).strip().casefold()
            number = f"-{seen.setdefault(key, len(seen) + 1)}"
        pieces += [text[end : span.start], f"[**{span.kind}{number}**]"]
        end = span.end
    return "".join([*pieces, text[end:]])
