"""E-mail addresses, web addresses, IP and MAC addresses, phone and fax numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import regex

from megatron_core.config.corpus.curate import PhiClass
from megatron_core.data.curation.deidentification.recognizers import predefined_recognizers
from megatron_core.data.curation.deidentification.spans import Span, Sureness, span_of
from megatron_core.errors import ConfigError

_PIECE = 10_000  # characters given to a recognizer at once: some take the square of it

_URL = regex.compile(
    r"(?:\b(?:https?|ftp)://[^\s<>\"']+|\bwww\.[^\s<>\"']+"
    r"|(?<![@\w.-])(?:[a-z0-9][a-z0-9-]{0,62}\.)+(?:com|org|net|edu|gov|mil|info|io|health|co\.uk|"
    r"ac\.uk|nhs\.uk|gov\.uk)\b(?:/[^\s<>\"']*)?)(?<![.,;:)\]])"
)
_EXTENSION = r"(?:\s?(?:x|ext\.?|extension)\s?\d{1,6})?"
_DIGITS = rf"(?P<found>\(?\+?\d[\d\s().\-/]{{4,18}}\d{_EXTENSION})(?!\d)"
_IS = r"\b\.?\s*(?:no\.?|number|#)?\s*(?:is|at|on|to|[:=(-])?\s*"
_PHONES = (
    # 212-555-0123, (212) 555 0123, +1.212.555.0123
    regex.compile(
        r"(?<![\w.\-/])(?P<found>(?:\+?1[\s.-]?)?(?:\(\d{3}\)\s?|\d{3}[\s.-])\d{3}[\s.-]\d{4}"
        rf"{_EXTENSION})(?![\w-])"
    ),
    regex.compile(
        r"(?i)\b(?:tele?phone|phone|tel|ph|mobile|cell(?:ular)?|call(?:ed|ing)?|reached|dial|"
        rf"contact|hotline){_IS}{_DIGITS}"
    ),
    regex.compile(r"(?i)\b(?:ext|extension|pager|beeper)\b\.?\s*(?:#|no\.?|:)?\s*(?P<found>\d{3,6})\b"),
)  # fmt: skip
_ENZYME = regex.compile(r"\bEC[: ]{0,2}$")
_FAX_LABEL = r"\b(?:fax|facsimile|telefax)"
_FAX = regex.compile(rf"(?i){_FAX_LABEL}{_IS}{_DIGITS}")
_FAX_BEFORE = regex.compile(rf"(?i){_FAX_LABEL}\b[^\d\n]{{0,20}}$")


class Contacts:
    """Presidio's recognizers, and phone numbers that only a label tells.

    Raises:
        MissingExtraError: presidio-analyzer is not installed.
        ConfigError: phonenumbers does not know ``region``.
    """

    def __init__(self, region: str) -> None:
        known = predefined_recognizers("finds addresses")
        from phonenumbers import SUPPORTED_REGIONS  # which presidio brings

        if region not in SUPPORTED_REGIONS:
            raise ConfigError(
                f"curate.deidentify.region: no country {region!r}; there are "
                + ", ".join(sorted(SUPPORTED_REGIONS))
            )
        email = known.EmailRecognizer()
        # It would ask the network which domains exist; one that does not is private all the same.
        email.validate_result = lambda pattern_text: None
        # The recognizer, its class, and characters without which it finds nothing.
        self._recognizers: list[tuple[Any, PhiClass, str]] = [
            (email, "EMAIL", "@"),
            (known.IpRecognizer(), "IP", ".:"),
            (known.MacAddressRecognizer(), "DEVICE", ":-."),
            (known.PhoneRecognizer(supported_regions=(region,)), "PHONE", "0123456789"),
        ]

    def find(self, text: str) -> Iterator[Span]:
        """Contacts in ``text``; spans may overlap."""
        for start, piece in _pieces(text):
            for recognizer, kind, needed in self._recognizers:
                if not any(character in piece for character in needed):
                    continue
                for found in recognizer.analyze(piece, recognizer.supported_entities):
                    span = Span(start + found.start, start + found.end, kind, Sureness.FORM)
                    if found.score >= 0.4 and not _is_enzyme(text, span):
                        yield _as_fax(text, span) if kind == "PHONE" else span
        for pattern in _PHONES:
            for match in pattern.finditer(text):
                yield _as_fax(text, span_of(match, "PHONE", Sureness.LABEL, "found"))
        for match in _FAX.finditer(text):
            yield span_of(match, "FAX", Sureness.FORM, "found")
        for match in _URL.finditer(text):
            yield span_of(match, "URL", Sureness.FORM)


def _is_enzyme(text: str, span: Span) -> bool:
    """Whether an address is the number of an enzyme, as in "EC 2.7.7.12"."""
    return span.kind == "IP" and bool(_ENZYME.search(text, max(0, span.start - 5), span.start))


def _as_fax(text: str, span: Span) -> Span:
    """A phone number, or a fax number where one is announced."""
    if _FAX_BEFORE.search(text, max(0, span.start - 40), span.start):
        return span._replace(kind="FAX", sureness=Sureness.FORM)
    return span._replace(sureness=Sureness.LABEL)


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """``text`` in pieces that end where a line or at least a word does, with their starts."""
    start = 0
    while start < len(text):
        end = min(start + _PIECE, len(text))
        if end < len(text):
            for mark in "\n ":
                if (cut := text.rfind(mark, start, end)) > start:
                    end = cut + 1
                    break
        yield start, text[start:end]
        start = end
