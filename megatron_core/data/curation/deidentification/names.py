"""Names of people: by titles, roles and signatures, by lists, and where they come back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import regex

from megatron_core.data.curation.deidentification.spans import Span, Sureness, span_of
from megatron_core.data.curation.deidentification.vocabulary import Vocabulary, alternatives

_WORD = r"\p{Lu}[\p{L}\p{M}]*+(?:['’](?![sS]\b)[\p{L}\p{M}]++|-[\p{L}\p{M}]++)*+"
_INITIALS = r"(?:\p{Lu}\.[ ]?){1,3}(?=[ \p{Lu},]|$)"
_PARTICLE = (
    r"(?i:de la|de los|van der|van den|von der|de|del|della|van|von|der|den|bin|ibn|al|el|di|da|"
    r"dos|du|le|la|ter|ten|st\.)"
)
_RUN = rf"(?:{_INITIALS}|{_WORD})(?:[ ](?:{_PARTICLE}[ ])?(?:{_INITIALS}|{_WORD})){{0,4}}+"
_NAME = rf"(?P<found>{_RUN})"
_ANY_NAME = rf"(?P<found>{_WORD},[ ]?{_RUN}|{_RUN})"  # or the last name first
_TITLE = (
    r"(?:D[rR]s?|DRS|M[rR]s?|MRS|Ms|Mx|Miss|MISS|Prof(?:essor)?|PROF|Doctor|Rev|Sir|Madam|Sister|"
    r"Nurse|Father|Capt|Sgt|Lt|Hon)\.?[ ]"
)
_TOKEN = regex.compile(rf"\p{{Lu}}\.|{_WORD}")
_RUNS = regex.compile(rf"(?<![\w'’-]){_RUN}")
_LAST_FIRST = regex.compile(
    rf"(?<![\w-])(?P<found>(?P<last>{_WORD}),[ ](?P<first>{_WORD})(?:[ ]\p{{Lu}}\b\.?)?)"
)
_SMALL = regex.compile(r"\b\p{Ll}+\b")
_SENTENCE_START = regex.compile(r"(?:^|[.!?:;\n•*|\])(\"“/-])[ ]*$")


class Names:
    """Finds the names of people written in a script that has capitals."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        lists = vocabulary.lists
        self._vocabulary = vocabulary
        self._states = frozenset(lists["states"])
        self._no_names = frozenset(lists["no_names"])
        roles, acts = alternatives(lists["roles"]), alternatives(lists["acts"])
        degrees = "|".join(r"\.?".join(map(regex.escape, d)) for d in lists["degrees"])
        which = "(?:full|first|last|middle|family|given|maiden|birth)[ ]"
        # What follows one of these is a name, even of words that no list has.
        self._labels = [
            regex.compile(pattern)
            for pattern in (
                rf"(?<![\w.]){_TITLE}{_NAME}",
                rf"(?i:\b{roles}(?:['’]s)?(?:[ ]{which}?(?:sur)?name)?(?:\(s\))?)[ ]?[:=][ ]?"
                rf"(?:{_TITLE})?{_ANY_NAME}",
                rf"(?i:\b{which}?(?:sur)?name|\balias|\baka)[ ]?[:=][ ]?{_ANY_NAME}",
                rf"(?i:\b{acts}(?:[ ]and[ ]\w+)?(?:[ ](?:by|with|to)\b|:))[ ]?:?[ ]?(?:{_TITLE})?"
                rf"{_ANY_NAME}",
                r"(?m)^[ ]*(?i:dear|re|regarding|attn|attention|cc|c/o|copy (?:sent )?to|to|from|"
                rf"sincerely|regards|yours)[ ]?[:,]?[ \n](?:{_TITLE})?{_ANY_NAME}",
                rf"(?i:\b(?:named|called|known as|goes by|introduced \w+self as))[ ]{_NAME}",
                rf"(?:/s/|\bX_+)[ ]?{_NAME}",
            )
        ]
        self._degree = regex.compile(rf"{_NAME},?[ ](?=(?:{degrees})(?!\w))")
        self._role = regex.compile(
            rf"(?i:\b{roles})(?:,| is| was| named| called|,? Mr\.?)?[ ]{_NAME}"
        )

    def find(self, text: str) -> Iterator[Span]:
        """Names in ``text``, titles and degrees left out; spans may overlap."""
        found = [*self._labelled(text), *self._listed(text)]
        yield from found
        yield from self._again(text, found)

    def _labelled(self, text: str) -> Iterator[Span]:
        """Names that a word beside them announces."""
        for pattern in self._labels:
            for match in pattern.finditer(text):
                yield from self._name_in(text, *match.span("found"))
        for match in self._degree.finditer(text):
            yield from self._name_in(text, *match.span("found"), from_end=True)
        for match in self._role.finditer(text, overlapped=True):
            for span in self._name_in(text, *match.span("found")):
                if self._is_told(text[span.start : span.end]):
                    yield span

    def _name_in(
        self, text: str, start: int, end: int, *, from_end: bool = False
    ) -> Iterator[Span]:
        """A short run of words if one of them may be a name; of a long one its beginning (or
        end) as far as every word may."""
        tokens = [match.span() for match in _TOKEN.finditer(text, start, end)]
        belongs = [self._may_belong(text[a:b]) for a, b in tokens]
        pairs = zip(tokens, belongs, strict=True)
        if not any(may and _is_long(text[a:b]) for (a, b), may in pairs):
            return
        if len(tokens) > 3:
            if from_end:
                tokens, belongs = tokens[::-1], belongs[::-1]
            tokens = tokens[: [*belongs, False].index(False)]
        if any(_is_long(text[a:b]) for a, b in tokens):
            first, last = min(tokens), max(tokens)
            if not self._vocabulary.is_eponym(text, last[1]):
                yield Span(first[0], last[1], "NAME", Sureness.LABEL)

    def _may_belong(self, token: str) -> bool:
        word = token.rstrip(".")
        if len(word) == 1:
            return True
        return word.lower() not in self._no_names and self._vocabulary.may_be_name(word)

    def _is_told(self, name: str) -> bool:
        """Whether one of the words is a known name, or two are known as nothing else."""
        words = [word for word in _TOKEN.findall(name) if len(word) > 2]
        unknown = sum(not self._vocabulary.is_word(word) for word in words)
        return unknown > 1 or any(map(self._vocabulary.is_name, words))

    def _listed(self, text: str) -> Iterator[Span]:
        """Names that only the lists tell."""
        vocabulary = self._vocabulary
        for match in _LAST_FIRST.finditer(text, overlapped=True):
            last, first = match["last"], match["first"]
            if (
                vocabulary.is_name(last)
                and vocabulary.is_first(first)
                and not vocabulary.is_word(last)
                and not vocabulary.is_word(first)
                and first.lower() not in self._states
            ):
                yield span_of(match, "NAME", Sureness.LIST, "found")
        small = set(_SMALL.findall(text))
        for run in _RUNS.finditer(text):
            for group in self._groups(text, *run.span()):
                start, end = group[0][0], group[-1][1]
                words = [text[a:b] for a, b in group if _is_long(text[a:b])]
                if not words or vocabulary.is_eponym(text, end):
                    continue
                if len(group) > 1:
                    named = self._are_names(words)
                else:
                    named = self._stands_alone(text, words[0], start, small)
                if named:
                    yield Span(start, end, "NAME", Sureness.LIST)

    def _groups(self, text: str, start: int, end: int) -> Iterator[list[tuple[int, int]]]:
        """The words of a run, cut at those that belong to no name."""
        group: list[tuple[int, int]] = []
        for match in _TOKEN.finditer(text, start, end):
            if self._may_belong(match.group()) and match.group().lower() not in self._states:
                group.append(match.span())
            elif group:
                yield group
                group = []
        if group:
            yield group

    def _are_names(self, words: list[str]) -> bool:
        """Whether words side by side are a name: a first name or two names are among them, or
        one name and nothing that is a word."""
        vocabulary = self._vocabulary
        known = sum(map(vocabulary.is_name, words))
        return known > 1 or (
            known == 1
            and (any(map(vocabulary.is_first, words)) or not any(map(vocabulary.is_word, words)))
        )

    def _stands_alone(self, text: str, word: str, start: int, small: set[str]) -> bool:
        """Whether a single word is a listed name with a capital that nothing else gives it;
        words that stand in ``small`` letters elsewhere are no names, and two names with a hyphen
        are those of a disease."""
        return (
            len(word) > 2
            and "-" not in word
            and not word.isupper()
            and self._vocabulary.is_name(word)
            and not self._vocabulary.is_word(word)
            and word.lower() not in small
            and not _SENTENCE_START.search(text, max(0, start - 10), start)
        )

    def _again(self, text: str, spans: Iterable[Span]) -> Iterator[Span]:
        """The names found above, and their words, wherever else they stand."""
        told = {text[span.start : span.end] for span in spans if span.sureness < Sureness.LIST}
        for name in sorted(name for name in told if " " in name):
            start = text.find(name)
            while start >= 0:
                yield Span(start, start + len(name), "NAME", Sureness.LABEL)
                start = text.find(name, start + len(name))
        words = {
            word.casefold()
            for span in spans
            for word in _TOKEN.findall(text, span.start, span.end)
            if len(word) > 2 and not self._vocabulary.is_word(word)
        }
        for match in _TOKEN.finditer(text) if words else ():
            if match.group().casefold() in words and not self._vocabulary.is_eponym(
                text, match.end()
            ):
                yield span_of(match, "NAME", Sureness.LIST)


def _is_long(token: str) -> bool:
    """Whether a token is more than an initial."""
    return len(token.rstrip(".")) > 1
