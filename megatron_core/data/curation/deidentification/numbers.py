"""Numbers that are given to a person, a record, a policy, a car or a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import regex

from megatron_core.config.corpus.curate import PhiClass
from megatron_core.data.curation.deidentification.recognizers import predefined_recognizers
from megatron_core.data.curation.deidentification.spans import Span, Sureness, span_of
from megatron_core.data.curation.deidentification.vocabulary import Vocabulary, alternatives

_NUMBER = r"(?:[ ]?(?:id(?:entifier|entification)?|numbers?|nos?\.?|num\.?|nbr|code|#|№))"
_IS = r"\.?[ ]?(?:[:=#]|is|was|with|-)?[ ]?#?[ ]?"
# At least three digits, so that neither a word nor a dose is taken; groups may be spaced.
_VALUE = (
    r"(?P<found>(?=(?:[A-Za-z/-]*\d){3})[A-Za-z0-9]"
    r"(?:[A-Za-z0-9/-]|[ .](?=\d{2,}\b(?!\s?(?:mg|ml|mcg|%)))){2,30}(?<![/-]))(?!\w)"
)
_LABELLED = {
    "alone": rf"{_NUMBER}?{_IS}{_VALUE}",
    "numbered": rf"{_NUMBER}{_IS}{_VALUE}",
    "colon": rf"[ ]?[:#][ ]?{_VALUE}",
}
_SSN = regex.compile(
    r"(?<![\w-])\d{3}([- .])\d{2}\1\d{4}(?![\w-])|\b[xX]{3}-?[xX]{2}-?\d{4}\b"
    r"|\*{3}-?\*{2}-?\d{4}\b"
    r"|\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?(?:\d\d ?){3}[A-D]\b"  # National Insurance, UK
)
_LAST_FOUR = regex.compile(
    r"(?i)\b(?:ssn|social security)[^.\n\d]{0,20}\bending (?:in|with) (?P<found>\d{4})\b"
)
_VIN = regex.compile(r"\b(?=[A-HJ-NPR-Z]*\d)(?=\d*[A-HJ-NPR-Z])[A-HJ-NPR-Z0-9]{17}\b")
_VIN_LETTERS, _VIN_VALUES = "ABCDEFGHJKLMNPRSTUVWXYZ", "12345678123457923456789"
_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
_UDI = regex.compile(r"\(01\)\d{14}(?:\(\d{2}\)[A-Za-z0-9-]{1,20})*")
# What nothing tells but its length: records, samples, orders. No result and no dose is so long;
# numbers of papers, of terms and of trials are known to all.
_PUBLIC = (
    r"(?<!\b(?i:pmid|pmc|doi|isbn|issn|go|hp|omim|mim|hgnc|rrid|nct|snomed|loinc|icd)[: #-]{0,2})"
)
_UUID = regex.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")
_LONG = regex.compile(_PUBLIC + r"(?<![\w.,/$€£-])\d{7,20}(?!\w|[.,/]\d)")
_CODE = regex.compile(
    _PUBLIC + r"(?!NCT|PMC|HP-|GO-)(?<![\w.-])"
    r"(?:[A-Z]{1,4}-?\d{5,12}[A-Z]?|\d{4,10}[A-Z]{1,3}\d{0,6})(?![\w.-]\d|\w)"
)


class Numbers:
    """Numbers by their label, by their form, and presidio's by their check digits.

    Raises:
        MissingExtraError: presidio-analyzer is not installed.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        known = predefined_recognizers("checks numbers")
        # The recognizer, its class and the score from which on it counts.
        self._checked: list[tuple[Any, PhiClass, float]] = [
            (known.CreditCardRecognizer(), "ACCOUNT", 1.0),
            (known.IbanRecognizer(), "ACCOUNT", 1.0),
            (known.UsNpiRecognizer(), "LICENSE", 1.0),
            (known.UsMbiRecognizer(), "HEALTH_PLAN", 0.3),
        ]
        self._labelled = [
            (
                cast(PhiClass, kind),
                regex.compile(rf"(?i)(?<![\w-]){alternatives(words)}(?![A-Za-z]){form}"),
            )
            for kind, by_form in vocabulary.lists["numbers"].items()
            for form, words in ((_LABELLED[name], words) for name, words in by_form.items())
            if words
        ]

    def find(self, text: str) -> Iterator[Span]:
        """Numbers in ``text``; spans may overlap."""
        if not any(map(str.isdigit, text)):
            return
        for kind, pattern in self._labelled:
            for match in pattern.finditer(text):
                yield span_of(match, kind, Sureness.LABEL, "found")
        for match in _SSN.finditer(text):
            yield span_of(match, "SSN", Sureness.FORM)
        for match in _LAST_FOUR.finditer(text):
            yield span_of(match, "SSN", Sureness.FORM, "found")
        for match in _VIN.finditer(text):
            if _is_vin(match.group()):
                yield span_of(match, "VEHICLE", Sureness.FORM)
        for match in _UDI.finditer(text):
            yield span_of(match, "DEVICE", Sureness.FORM)
        for recognizer, kind, least in self._checked:
            for found in recognizer.analyze(text, recognizer.supported_entities):
                if found.score >= least:
                    yield Span(found.start, found.end, kind, Sureness.LIST)
        for pattern in (_UUID, _LONG, _CODE):
            for match in pattern.finditer(text):
                yield span_of(match, "ID", Sureness.LIST)


def _is_vin(text: str) -> bool:
    """Whether the ninth character is the check digit that North America puts there."""
    values = (int(c) if c.isdigit() else int(_VIN_VALUES[_VIN_LETTERS.index(c)]) for c in text)
    remainder = sum(v * w for v, w in zip(values, _VIN_WEIGHTS, strict=True)) % 11
    return text[8] == ("X" if remainder == 10 else str(remainder))
