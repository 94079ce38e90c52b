"""Entities by their characters, and the flat choice of them that tags can say."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_core.data.tuning.tags import Mention
from megatron_core.data.tuning.words import Word


@dataclass(frozen=True, slots=True)
class Span:
    """An entity of a text; ``fragments`` are where its parts start and stop, in their order."""

    id: str
    type: str
    fragments: tuple[tuple[int, int], ...]

    @property
    def start(self) -> int:
        """The first character."""
        return self.fragments[0][0]

    @property
    def stop(self) -> int:
        """The one after the last."""
        return self.fragments[-1][1]


@dataclass(frozen=True, slots=True)
class Relation:
    """What the entity ``head`` has to do with ``tail``, both by id."""

    type: str
    head: str
    tail: str


@dataclass(frozen=True, slots=True)
class AnnotatedText:
    """A text with its entities and relations; ``group`` is what it belongs with."""

    id: str
    text: str
    spans: tuple[Span, ...]
    relations: tuple[Relation, ...]
    group: str


def flat_mentions(
    text: str, words: Sequence[Word], spans: Sequence[Span]
) -> tuple[list[Mention], Counter[str]]:
    """The entities of ``spans`` that tags of ``words`` can say, and how many were dealt with.

    - ``joined``: parts with nothing but white space between are one entity.
    - ``discontinuous_left_out``: other entities of several parts.
    - ``widened``: an entity that starts or stops within a word has the whole word.
    - ``overlapping_left_out``: of entities that share words the longest in words stays, of equal
      ones the first, then the first by type.
    - ``empty_left_out``: an entity of white space.
    """
    counts: Counter[str] = Counter()
    found: list[Mention] = []
    starts, stops = [word.start for word in words], [word.stop for word in words]
    for span in spans:
        gaps = zip(span.fragments, span.fragments[1:], strict=False)
        if any(text[a[1] : b[0]].strip() for a, b in gaps):
            counts["discontinuous_left_out"] += 1
            continue
        counts["joined"] += len(span.fragments) > 1
        first, stop = bisect_right(stops, span.start), bisect_left(starts, span.stop)
        if first == stop:
            counts["empty_left_out"] += 1
            continue
        counts["widened"] += starts[first] < span.start or stops[stop - 1] > span.stop
        found.append(Mention(span.type, first, stop))
    taken: set[int] = set()
    kept = []
    for one in sorted(found, key=lambda m: (m.first - m.stop, m.first, m.type)):
        if taken.isdisjoint(range(one.first, one.stop)):
            taken.update(range(one.first, one.stop))
            kept.append(one)
        else:
            counts["overlapping_left_out"] += 1
    return sorted(kept, key=lambda m: m.first), +counts
