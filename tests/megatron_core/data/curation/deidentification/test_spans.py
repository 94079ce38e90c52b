"""Overlapping spans become one order, whatever order they come in."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("regex")

from megatron_core.config.corpus.curate import PHI_CLASSES
from megatron_core.data.curation.deidentification.spans import Placeholders, Span, Sureness, resolve

SPANS = st.lists(
    st.builds(
        lambda start, length, kind, sure: Span(start, start + length, kind, sure),
        st.integers(0, 40),
        st.integers(1, 9),
        st.sampled_from(PHI_CLASSES),
        st.sampled_from(Sureness),
    )
)


@given(SPANS, st.randoms())
def test_each_character_stays_covered_and_none_twice(
    spans: list[Span], draw: random.Random
) -> None:
    resolved = resolve(spans)
    covered = {i for span in spans for i in range(span.start, span.end)}
    assert [i for span in resolved for i in range(span.start, span.end)] == sorted(covered)
    draw.shuffle(spans)
    assert resolve(spans) == resolved
    for span in resolved:
        inside = [s for s in spans if span.start <= s.start and s.end <= span.end]
        assert span.sureness == min(s.sureness for s in inside)
        assert span.kind in {s.kind for s in inside if s.sureness == span.sureness}


def test_the_surest_gives_the_class_then_the_longest_then_the_first() -> None:
    form = Span(0, 3, "URL", Sureness.FORM)
    name, place = Span(2, 8, "NAME", Sureness.LABEL), Span(2, 8, "LOCATION", Sureness.LABEL)
    long = Span(2, 9, "LOCATION", Sureness.LABEL)
    assert resolve([place, name]) == [name]
    assert resolve([name, long]) == [long]
    assert resolve([name, long, form]) == [Span(0, 9, "URL", Sureness.FORM)]
    touching = [Span(0, 2, "NAME", Sureness.LIST), Span(2, 4, "NAME", Sureness.LIST)]
    assert resolve(touching) == touching


def test_a_span_touches_a_placeholder_with_any_of_its_characters() -> None:
    text = "a [**X**] b [**Y 2**]"
    inside = {i for i in range(len(text)) if 2 <= i < 9 or 12 <= i < 21}
    placeholders = Placeholders(text)
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            span = Span(start, end, "NAME", Sureness.LIST)
            assert placeholders.touch(span) == bool(inside & {*range(start, end)})
