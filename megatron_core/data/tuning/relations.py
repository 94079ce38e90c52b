"""Relations as pairs of marked entities to classify."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_core.data.tuning.annotations import AnnotationFields, read_annotations
from megatron_core.data.tuning.reading import Items
from megatron_core.data.tuning.spans import AnnotatedText, Span
from megatron_core.data.tuning.words import split_sentences
from megatron_core.errors import CorpusError

NONE = "none"
_HEAD, _HEAD_TYPE, _TAIL, _TAIL_TYPE = "@", "*", "#", "^"

TypePair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class MarkedPair:
    """Two entities of a text, marked, and their relation.

    Attributes:
        id: The text's, and the entities'.
        text: The sentences from the one entity to the other, with marks.
        first: The character of the head's opening mark in it.
        second: Of the tail's.
        types: Of head and tail.
        label: The relation's type, ``none`` where there is none.
        group: What the text belongs with.
    """

    id: str
    text: str
    first: int
    second: int
    types: TypePair
    label: str
    group: str


def read_pairs(
    path: Path,
    *,
    types: Sequence[TypePair] | None = None,
    sentences: int = 2,
    characters: int = 600,
    fields: AnnotationFields | None = None,
) -> Items[MarkedPair]:
    """The candidate pairs of the texts in BRAT's folder or of JSON lines.

    Every ordered pair of entities whose types may be related is one, if both are within the
    limits. The sentences that hold them are the text, with typed marks of punctuation, as
    ``@ * Drug * aspirin @`` for the head and ``# ^ Reason ^ pain #`` for the tail (Zhou and Chen,
    2022). Counted: ``related``, ``unrelated``; relations that are no candidate for its distance
    (``too_far_left_out``), for its types (``other_types_left_out``), since the two overlap or
    are one (``overlapping_left_out``), or since the pair has another relation, the first in the
    file (``second_label_left_out``).

    Args:
        types: Those of head and tail that may be related; by default those that are in the file.
            Give the ones of training for test.
        sentences: Most sentences from one to the other, their own too.
        characters: Most from the start of the one to the end of the other.
        fields: Names of fields of JSON lines.

    Raises:
        CorpusError: what cannot be read, with file and line; no relation or no candidate.
    """
    read = read_annotations(path, fields)
    if types is None:
        types = related_types(read.items)
        if not types:
            raise CorpusError(f"{path} has no relations in {len(read.items)} texts")
    counts = Counter(read.counts)
    found = [
        pair
        for one in read.items
        for pair in _pairs(one, frozenset(types), sentences, characters, counts)
    ]
    if not found:
        allowed = "; ".join(" → ".join(pair) for pair in types)
        raise CorpusError(f"{path} has no two entities of {allowed} within the limits")
    return Items(tuple(found), dict(sorted((+counts).items())))


def related_types(texts: Sequence[AnnotatedText]) -> tuple[TypePair, ...]:
    """The types of heads and tails of all relations, in the order of the names."""
    found = set()
    for one in texts:
        by_id = {span.id: span.type for span in one.spans}
        found |= {(by_id[r.head], by_id[r.tail]) for r in one.relations}
    return tuple(sorted(found))


def _pairs(
    one: AnnotatedText, types: frozenset[TypePair], sentences: int, characters: int,
    counts: Counter[str],
) -> Iterator[MarkedPair]:  # fmt: skip
    labels: dict[TypePair, str] = {}
    for relation in one.relations:
        known = labels.setdefault((relation.head, relation.tail), relation.type)
        counts["second_label_left_out"] += known != relation.type
    places = split_sentences(one.text)
    begins, ends = [start for start, _ in places], [stop for _, stop in places]
    for head, tail in _near(one.spans, characters):
        label = labels.pop((head.id, tail.id), NONE)
        start, stop = min(head.start, tail.start), max(head.stop, tail.stop)
        # The first sentence that ends after the start, the last that begins before the stop.
        first, last = bisect_right(ends, start), bisect_left(begins, stop) - 1
        if (head.type, tail.type) not in types:
            problem = "other_types_left_out"
        elif head.start < tail.stop and tail.start < head.stop:
            problem = "overlapping_left_out"
        elif last - first >= sentences or stop - start > characters:
            problem = "too_far_left_out"
        else:
            counts["unrelated" if label == NONE else "related"] += 1
            edges = min(start, begins[first]), max(stop, ends[last])
            yield _mark(one, head, tail, edges, label)
            continue
        counts[problem] += label != NONE
    counts["overlapping_left_out"] += sum(head == tail for head, tail in labels)
    counts["too_far_left_out"] += sum(head != tail for head, tail in labels)


def _near(spans: Sequence[Span], characters: int) -> Iterator[tuple[Span, Span]]:
    """Ordered pairs whose starts are no further apart than ``characters``."""
    ordered = sorted(spans, key=lambda s: (s.start, s.stop, s.id))
    starts = [span.start for span in ordered]
    for head in ordered:
        low = bisect_left(starts, head.start - characters)
        high = bisect_right(starts, head.start + characters)
        yield from ((head, tail) for tail in ordered[low:high] if tail is not head)


def _mark(
    one: AnnotatedText, head: Span, tail: Span, edges: tuple[int, int], label: str
) -> MarkedPair:
    text, at, first, second = "", edges[0], 0, 0
    for span in sorted((head, tail), key=lambda s: s.start):
        side, kind = (_HEAD, _HEAD_TYPE) if span is head else (_TAIL, _TAIL_TYPE)
        text += one.text[at : span.start]
        if span is head:
            first = len(text)
        else:
            second = len(text)
        at = span.stop
        text += f"{side} {kind} {span.type} {kind} {one.text[span.start : at]} {side}"
    text += one.text[at : edges[1]]
    id = f"{one.id}/{head.id}-{tail.id}"
    return MarkedPair(id, text, first, second, (head.type, tail.type), label, one.group)
