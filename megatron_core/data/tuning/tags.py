"""IOB2 tags: from other schemes, and to the entities they say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"
_BEGINNING, _WITHIN, _LAST = "BSU", "IEL", "ESLU"  # also of IOBES and BILOU


class Mention(NamedTuple):
    """An entity: words ``first … stop - 1`` of a sentence."""

    type: str
    first: int
    stop: int


def to_iob2(tags: Sequence[str]) -> tuple[str, ...]:
    """Tags of IOB1, IOB2, IOBES or BILOU in IOB2.

    One rule reads them all: B, S and U begin an entity; I, E and L continue one of their type, or
    begin one where none is open; E, S, L and U close it.

    Raises:
        ValueError: a tag is of none of them.
    """
    found, open_type = [], ""
    for tag in tags:
        if tag == OUTSIDE:
            found.append(tag)
            open_type = ""
            continue
        prefix, dash, kind = tag.partition("-")
        if prefix not in {*_BEGINNING, *_WITHIN} or not dash or not kind:
            raise ValueError(
                f"the tag {tag!r} is none of O, B-TYPE, I-TYPE, and E-, S-, L-, U-TYPE"
            )
        begins = prefix in _BEGINNING or kind != open_type
        found.append(f"{'B' if begins else 'I'}-{kind}")
        open_type = "" if prefix in _LAST else kind
    return tuple(found)


def mentions(tags: Sequence[str]) -> list[Mention]:
    """The entities of IOB2 tags, strictly: each begins with B, and an I that continues none is
    of none."""
    found: list[Mention] = []
    first, kind = 0, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        if kind and tag == f"I-{kind}":
            continue
        if kind:
            found.append(Mention(kind, first, place))
        first, kind = place, tag[2:] if tag.startswith("B-") else ""
    return found


def tags_of(count: int, found: Iterable[Mention]) -> tuple[str, ...]:
    """IOB2 tags of ``count`` words of which ``found`` are entities, none over another."""
    tags = [OUTSIDE] * count
    for kind, first, stop in found:
        tags[first:stop] = [f"B-{kind}", *[f"I-{kind}"] * (stop - first - 1)]
    return tuple(tags)


def tag_names(sentences: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The tags of a training set: O, then B and I of each type in the order of the names."""
    types = sorted({tag[2:] for tags in sentences for tag in tags if tag != OUTSIDE})
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in "BI"))
