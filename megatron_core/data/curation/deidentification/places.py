"""Places smaller than a state: addresses, towns, postal codes, hospitals."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from megatron_core.data.curation.deidentification.spans import Span, Sureness, span_of
from megatron_core.data.curation.deidentification.vocabulary import Vocabulary, alternatives

_WORD = r"\p{Lu}[\p{L}\p{M}'’.-]*+"
_TOWN = rf"(?:{_WORD}[ ](?:of[ ]|de[ ]|del[ ]|la[ ])?){{0,3}}{_WORD}"
_ZIP = r"\d{5}(?:-\d{4})?"
_DIRECTION = r"(?:[NSEW]{1,2}\.?|North|South|East|West|(?:North|South)(?:east|west))"
_UNIT = (
    r"(?:,?[ ](?:(?i:apt|apartment|suite|ste|unit|flat|floor|fl|rm|room|bldg)\.?[ ]?|#[ ]?)"
    r"[\w-]{1,6}\b)"
)
_BOX = r"\b(?i:P\.?[ ]?O\.?[ ]?Box)[ ]\d+"
_BRITISH_CODE = (
    r"\b(?:GIR ?0AA|[A-PR-UWYZ](?:\d{1,2}|[A-HK-Y]\d|[A-HK-Y]\d\d|\d[A-HJKPSTUW]|"
    r"[A-HK-Y]\d[ABEHMNPRV-Y]) \d[ABD-HJLNP-UW-Z]{2})\b"
)
_CODE_FIELD = regex.compile(
    r"(?i)\b(?:zip(?: ?code)?|post(?:al)? ?code)[ ]?[:=#]?[ ](?P<found>[A-Z0-9][A-Z0-9 -]{2,9}\b)"
)
_ADDRESS_FIELD = regex.compile(
    r"(?i:\b(?:(?:home|mailing|street|permanent|current|work|billing) )?(?:address|residence))"
    r"[ ]?[:=][ ]?(?P<found>[^\n|;]{4,120}?)(?=[ ]*(?:[|;\n]|$|(?<=\p{Ll}{2})\.[ ]+\p{Lu}|"
    r",?[ ]+(?i:tele?phone|phone|tel|mobile|e-?mail|fax|mrn|dob|ssn|contact)\b))"
)
_COUNTY = regex.compile(rf"\b(?P<found>{_TOWN}[ ](?:County|Parish|Borough|Township|Village))\b")
_IN = regex.compile(rf"(?<=\b(?:in|near|outside)[ ])(?P<found>{_TOWN})(?![\w-])")
_JOINED = r"(?:,?[ ](?:(?:of|and|the|for|de|del|at|[&–-])[ ]){0,2}\(?|-[ ]?)"
_CAPITALS = regex.compile(rf"(?:{_WORD}|\d{{1,3}}(?:st|nd|rd|th))(?:{_JOINED}{_WORD}\)?){{0,9}}+")
_NEXT_TOWN = regex.compile(rf",[ ](?P<found>{_TOWN})(?=[\n,.;|]|$)")


class Places:
    """Finds places, hospitals among them; states and countries stay."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        lists = vocabulary.lists
        self._vocabulary = vocabulary
        self._states = frozenset(lists["states"])
        self._town_words = frozenset(lists["town_words"])
        self._no_hospital = frozenset(lists["no_hospital"])
        self._hospital_words = frozenset(lists["hospital_words"])
        self._hospital = regex.compile(rf"(?i)\b{alternatives(lists['hospitals'])}\b")
        self._clinic = regex.compile(rf"(?i)\b{alternatives(lists['clinics'])}\b")
        state = f"(?:{alternatives(lists['state_codes'])}|(?i:{alternatives(lists['states'])}))"
        street = (
            rf"(?<![\w.,/])\d{{1,6}}[A-Za-z]?(?:[-/]\d{{1,5}})?,?[ ](?:{_DIRECTION}[ ])?"
            rf"(?:(?:{_WORD}|\d{{1,3}}(?:st|nd|rd|th)|de|del|la|of|the)[ ]){{0,4}}"
            rf"{alternatives(lists['streets'])}\b\.?(?:[ ]{_DIRECTION}\b)?{_UNIT}?"
        )
        self._forms = [
            regex.compile(pattern)
            for pattern in (
                rf"{street}(?:(?:,?[ \n]{_TOWN})?,?[ ]{state}\.?,?[ ]{_ZIP}|,[ ]{_TOWN}(?=,))?",
                rf"\b(?:{_TOWN},?[ ])?{state},?[ ]{_ZIP}\b",
                _BOX,
                _BRITISH_CODE,
            )
        ]
        self._towns = [
            regex.compile(rf"(?<![\w-])(?P<found>{_TOWN}),[ ]{state}\b(?!\.\w)"),
            regex.compile(
                rf"(?i:\b{alternatives(lists['moves'])}(?: (?:back|here|down|up))?"
                rf"[ ]?(?:in|to|from|of|at|near|outside|is|:))[ ](?P<found>{_TOWN})"
            ),
            _COUNTY,
        ]
        self._field = regex.compile(
            rf"(?i:\b{alternatives(lists['hospital_fields'])}(?: name)?)[ ]?[:=][ ]?"
            r"(?P<found>(?=\p{Lu})[^\n|;:]{3,90}?)(?=[ ]*(?:[|;\n]|$|\.[ ]))"
        )

    def find(self, text: str) -> Iterator[Span]:
        """Places in ``text``; spans may overlap."""
        for pattern in self._forms:
            for match in pattern.finditer(text):
                yield span_of(match, "LOCATION", Sureness.FORM)
        for match in _ADDRESS_FIELD.finditer(text):
            yield span_of(match, "LOCATION", Sureness.FORM, "found")
        for match in _CODE_FIELD.finditer(text):
            if any(map(str.isdigit, match["found"])):
                yield span_of(match, "LOCATION", Sureness.FORM, "found")
        for pattern in self._towns:
            for match in pattern.finditer(text):
                yield from self._town(text, *match.span("found"))
        for match in _IN.finditer(text):
            if self._is_town(match["found"]) and not self._vocabulary.is_eponym(text, match.end()):
                yield span_of(match, "LOCATION", Sureness.LIST, "found")
        yield from self._hospitals(text)

    def _town(self, text: str, start: int, end: int) -> Iterator[Span]:
        """The town within a run of capitals, if it is one that must go."""
        name = text[start:end].rstrip(".")
        words = name.split(" ")
        if name.lower() in self._states or not any(map(self._vocabulary.may_be_name, words)):
            return
        while not self._vocabulary.may_be_name(words[0]):  # a sentence's first word
            start += len(words.pop(0)) + 1
        if not self._vocabulary.is_eponym(text, end):
            yield Span(start, start + len(" ".join(words)), "LOCATION", Sureness.LABEL)

    def _is_town(self, name: str) -> bool:
        """Whether capitals after "in" are a town: unknown words, or usual ones of towns."""
        words = name.rstrip(".").lower().split(" ")
        if " ".join(words) in self._states:
            return False
        usual = len(words) > 1 and not self._town_words.isdisjoint({words[0], words[-1]})
        return usual or not any(map(self._vocabulary.is_word, words))

    def _hospitals(self, text: str) -> Iterator[Span]:
        """Hospitals and the like that have a name, and the town that is written after it."""
        for match in self._field.finditer(text):
            if self._is_telling(match["found"].split()):
                yield span_of(match, "LOCATION", Sureness.LABEL, "found")
        for match in _CAPITALS.finditer(text):
            words = regex.split(r"[ ,()]+", match.group())
            if len(words) == 1:
                continue
            named = self._hospital.search(match.group()) and any(
                word.lower() not in self._no_hospital for word in words
            )
            if named or (self._clinic.search(match.group()) and self._is_telling(words)):
                yield span_of(match, "LOCATION", Sureness.LABEL)
                if (town := _NEXT_TOWN.match(text, match.end())) is not None:
                    yield span_of(town, "LOCATION", Sureness.LABEL, "found")

    def _is_telling(self, words: list[str]) -> bool:
        """Whether one of the words is a place's own: unknown, or usual in names of hospitals."""
        return any(
            word[:1].isupper()
            and (word.lower() in self._hospital_words or not self._vocabulary.is_word(word))
            for word in words
        )
