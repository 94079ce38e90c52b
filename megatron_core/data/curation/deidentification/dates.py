"""Dates, but for the year alone, and ages over 89."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from megatron_core.data.curation.deidentification.spans import Span, Sureness, span_of

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|"
    r"Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_ORDINAL = rf"{_DAY}(?:st|nd|rd|th)?"
_NUMBER_OF_MONTH = r"(?:0?[1-9]|1[0-2])"
_YEAR = r"(?:1[89]|20)\d\d"
_SHORT_YEAR = r"(?:['’]?\d\d)"
_EDGE, _END = r"(?<![\w/.\-])", r"(?![\w/]|[.\-]\d)"
_FORMS = tuple(
    regex.compile(pattern, regex.IGNORECASE)
    for pattern in (
        # 2004-04-11, 2004/4/11, with a time of day after a T
        rf"{_EDGE}{_YEAR}([-/.]){_NUMBER_OF_MONTH}\1{_DAY}(?=T\d|{_END})",
        # 04/11/2004, 11.04.2004, 4-11-04, and with the month's name between
        rf"{_EDGE}(?:{_NUMBER_OF_MONTH}([-/.]){_DAY}|{_DAY}([-/.]){_NUMBER_OF_MONTH})"
        rf"(?:\1|\2)(?:{_YEAR}|\d\d){_END}",
        rf"{_EDGE}{_DAY}[-/\s.]{_MONTH}[-/\s.](?:{_YEAR}|\d\d){_END}",
        # April 11, 2004; Apr 11th; 11 April 2004; the 11th of April; April 2004
        rf"\b{_MONTH}\s?{_ORDINAL}(?:\s?(?:-|–|to|and)\s?{_ORDINAL})?\b(?:,?\s(?:{_YEAR}|['’]\d\d)\b)?(?!\s?(?:mg|mcg|ml|%|\.\d))",
        rf"\b{_ORDINAL}(?:\s(?:day\s)?of)?\s{_MONTH}(?:,?\s(?:{_YEAR}|['’]\d\d))?\b",
        rf"\b{_MONTH},?(?:\sof)?\s(?:{_YEAR}|['’]\d\d)\b",
        rf"{_EDGE}{_NUMBER_OF_MONTH}/{_YEAR}{_END}",
    )
)
_BEFORE = (
    r"(?:on|since|until|till|by|before|after|dated?|from|through|thru|due|seen|admitted|"
    r"discharged|dob|d\.o\.b\.|born|visit|collected|drawn|signed|scheduled)"
)
_PARTIAL = regex.compile(
    rf"(?i)\b{_BEFORE}\s?(?:on|for)?\s?:?\s(?P<found>{_NUMBER_OF_MONTH}[/-]{_DAY}){_END}"
    r"(?!\s?(?:strength|pain|power|mm|mg|cm|of\b))"
)
_MONTH_ALONE = regex.compile(
    r"(?:\b(?:in|since|last|this|next|until|early|late|mid|during|of)[\s-])"
    r"(?P<found>January|February|March|April|May|June|July|August|September|October|November|"
    r"December)\b(?!\s(?:have|be|not|need|help|cause|require))"
)
_LABELLED = regex.compile(
    r"(?i)\b(?:date(?:\sof\s\w+)?|dob|d\.o\.b\.|birth\s?date)\s?[:=]\s?"
    r"(?P<found>\d{1,4}[-/.\s]\d{1,2}(?:[-/.\s]\d{2,4})?|\d{8}|\d{6})(?!\d)"
)

_OLD = r"(?:9\d|1[0-2]\d)"
_TENS = r"ninety(?:[\s-](?:one|two|three|four|five|six|seven|eight|nine))?"
_AGES = tuple(
    regex.compile(pattern, regex.IGNORECASE)
    for pattern in (
        rf"(?<![\d./])(?P<found>{_OLD}|{_TENS})[\s-]?(?:years?|yrs?|y)\.?[\s-]?(?:of[\s-]age|/?old|/?o\b|o\.)",
        rf"\b(?:aged?|turn(?:ed|ing)|lived\sto(?:\sbe)?|(?:he|she|patient)\sis\s(?:now\s)?)\s?(?:is|of|at|:|=)?\s?"
        rf"(?P<found>{_OLD}|{_TENS})\b(?!\s?(?:%|°|kg|mg|cm|bpm|mm|lb|pounds|days|percent|degrees)|[./]\d)",
        rf"(?<![\d./])(?P<found>{_OLD})\s?(?:yo|y/o|yr|yrs)\b",
        rf"(?<![\d./])(?P<found>{_OLD})[\s-]?(?:[MF]\b|male\b|female\b)",
        r"\b(?:his|her|their|the|in|early|mid|late)[\s-](?P<found>nineties|['’]?90['’]?s)\b",
        r"\b(?P<found>(?:super)?centenarian|nonagenarian)\b",
    )
)


def find_dates(text: str) -> Iterator[Span]:
    """Dates of a day or a month; a year alone stays, as Safe Harbor allows. Spans may overlap."""
    for pattern in _FORMS:
        for match in pattern.finditer(text):
            yield span_of(match, "DATE", Sureness.FORM)
    for pattern in (_PARTIAL, _MONTH_ALONE, _LABELLED):
        for match in pattern.finditer(text):
            yield span_of(match, "DATE", Sureness.LABEL, "found")


def find_ages(text: str) -> Iterator[Span]:
    """Ages over 89, the number alone."""
    for pattern in _AGES:
        for match in pattern.finditer(text):
            yield span_of(match, "AGE", Sureness.LABEL, "found")
