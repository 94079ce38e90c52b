"""The published sets of quality rules, by datatrove's own filters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from megatron_core.config import CurateConfig
from megatron_core.config.corpus.curate import (
    C4Quality,
    FineWebQuality,
    GopherQuality,
    GopherRepetition,
)

_PLACEHOLDER = re.compile(r"\[\*\*([A-Z_]+)(?:-\d+)?\*\*\]")


@dataclass(frozen=True)
class Judged:
    """A text that passed, perhaps with lines taken out, or why it did not."""

    text: str
    reason: str | None = None


class QualityFilters:
    """Those filters that the recipe switches on, in the order FineWeb applies them.

    Raises:
        MissingExtraError: a filter splits words by spaCy, which is not installed.
        ConfigError: datatrove cannot split words of the filter's language.
    """

    def __init__(self, config: CurateConfig) -> None:
        sections = {
            "gopher_repetition": config.gopher_repetition,
            "gopher_quality": config.gopher_quality,
            "c4_quality": config.c4_quality,
            "fineweb_quality": config.fineweb_quality,
        }
        self._filters = {
            name: build_filter(section) for name, section in sections.items() if section is not None
        }
        self._deidentified = config.deidentify is not None

    def judge(self, text: str) -> Judged:
        """Try the filters on ``text``; a reason is ``filter/reason``, the latter datatrove's.

        In a de-identified text a placeholder counts as one word, not as the marks it is made of.
        """
        if not self._filters:
            return Judged(text)
        from datatrove.data import Document

        for name, quality in self._filters.items():
            edits = name == "c4_quality"
            plain = self._deidentified and not edits
            document = Document(text=_PLACEHOLDER.sub(r"\1", text) if plain else text, id="")
            if not text:  # datatrove divides by its length
                return Judged("", f"{name}/empty")
            result = quality.filter(document)
            kept, reason = result if isinstance(result, tuple) else (result, None)
            if not kept:
                return Judged(text, f"{name}/{reason}")
            text = document.text if edits else text
        return Judged(text)


def build_filter(
    section: GopherRepetition | GopherQuality | C4Quality | FineWebQuality,
) -> Any:
    """datatrove's filter with the arguments of ``section``.

    Raises:
        MissingExtraError: spaCy is not installed.
        ConfigError: datatrove cannot split words of the section's language.
    """
    from datatrove.pipeline import filters

    from megatron_core.data.curation.words import word_tokenizer

    arguments = dict(section)
    arguments["language"] = word_tokenizer(section.language)
    match section:
        case GopherRepetition():
            arguments["top_n_grams"] = tuple(section.top_n_grams.items())
            arguments["dup_n_grams"] = tuple(section.dup_n_grams.items())
            return filters.GopherRepetitionFilter(**arguments)
        case GopherQuality():
            return filters.GopherQualityFilter(**arguments)
        case C4Quality():
            return filters.C4QualityFilter(**arguments)
        case FineWebQuality():
            if section.stop_chars is not None:
                arguments["stop_chars"] = tuple(section.stop_chars)
            return filters.FineWebQualityFilter(**arguments)
