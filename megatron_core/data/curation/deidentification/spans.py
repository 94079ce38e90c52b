"""Places in a text, and one order among those that overlap."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, NamedTuple

import regex

from megatron_core.config.corpus.curate import PHI_CLASSES, PhiClass

_PLACEHOLDER = regex.compile(r"\[\*\*.*?\*\*\]")


class Sureness(IntEnum):
    """Why something is taken for an identifier, the best reason first."""

    FORM = 0  # nothing else looks like this
    LABEL = 1  # a word beside it says so
    LIST = 2  # a list has it, or its shape is usual


class Span(NamedTuple):
    """``text[start:end]`` is an identifier of class ``kind``."""

    start: int
    end: int
    kind: PhiClass
    sureness: Sureness


def span_of(match: Any, kind: PhiClass, sureness: Sureness, group: str | int = 0) -> Span:
    """The span of a pattern's match, or of one of its groups."""
    start, end = match.span(group)
    return Span(start, end, kind, sureness)


class Placeholders:
    """Where placeholders already stand in a text: nothing is looked for in them."""

    def __init__(self, text: str) -> None:
        places = [match.span() for match in _PLACEHOLDER.finditer(text)]
        self._starts = [start for start, _ in places]
        self._ends = [end for _, end in places]

    def touch(self, span: Span) -> bool:
        """Whether ``span`` shares a character with one of them."""
        first = bisect_right(self._ends, span.start)
        return first < len(self._starts) and self._starts[first] < span.end


def resolve(spans: Iterable[Span]) -> list[Span]:
    """Spans in the order of the text, none overlapping another.

    Spans that overlap become one over all their characters, so that no part of an identifier
    stays. Its class is that of the surest among them, then of the longest, then the first of
    ``PHI_CLASSES``; the order in which they come does not matter.
    """
    ordered = sorted(set(spans))
    resolved: list[Span] = []
    group: list[Span] = []
    end = -1
    for span in [*ordered, None]:
        if group and (span is None or span.start >= end):
            best = min(group, key=_preference)
            resolved.append(best._replace(start=group[0].start, end=end))
            group = []
        if span is not None:
            end = max(end, span.end) if group else span.end
            group.append(span)
    return resolved


def _preference(span: Span) -> tuple[int, int, int]:
    return span.sureness, span.start - span.end, PHI_CLASSES.index(span.kind)
