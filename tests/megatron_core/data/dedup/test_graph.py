"""Joined sets against sets that are merged one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.data.dedup.graph import flatten, join, join_alike, similarities

texts = st.lists(st.frozensets(st.integers(0, 7), min_size=1), min_size=2, max_size=7)


def merged(count: int, pairs: list[tuple[int, int]]) -> set[frozenset[int]]:
    groups = [{n} for n in range(count)]
    for one, other in pairs:
        both = set().union(*(g for g in groups if one in g or other in g))
        groups = [g for g in groups if not g & both] + [both]
    return {frozenset(group) for group in groups}


def ragged(sets: list[frozenset[int]]) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([value for one in sets for value in sorted(one)], dtype=np.uint64)
    return values, np.cumsum([0, *map(len, sets)])


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    return len(one & other) / len(one | other)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=12))
def test_roots_are_the_smallest_of_connected_components(pairs: list[tuple[int, int]]) -> None:
    parent = np.arange(8)
    join(parent, np.array(pairs, dtype=np.int64).reshape(-1, 2))
    flatten(parent)
    assert parent.tolist() == [
        min(next(group for group in merged(8, pairs) if n in group)) for n in range(8)
    ]


@given(texts)
def test_similarity_is_that_of_sets(sets: list[frozenset[int]]) -> None:
    pairs = [(i, j) for i in range(len(sets)) for j in range(len(sets))]
    found = similarities(*ragged(sets), np.array(pairs))
    assert found.tolist() == [jaccard(sets[i], sets[j]) for i, j in pairs]


@given(texts, texts, st.integers(1, 4), st.sampled_from([0, 0.25, 0.5, 1]))
def test_alike_members_of_a_piece_are_connected(
    one: list[frozenset[int]], other: list[frozenset[int]], compared: int, least: float
) -> None:
    """Two pieces of the same array of sets; of the second all are compared with all."""
    sets = one + other
    counts = np.array([[len(one), compared], [len(other), len(other)]])
    members = np.arange(len(sets))[::-1]
    pairs = join_alike(members, counts, *ragged(sets[::-1]), least)
    wanted = [
        (i, j)
        for i in range(len(sets))
        for j in range(i)
        if (j >= len(one) or (i < len(one) and j < compared)) and jaccard(sets[i], sets[j]) >= least
    ]
    found = [(len(sets) - 1 - a, len(sets) - 1 - b) for a, b in pairs.tolist()]
    assert merged(len(sets), found) == merged(len(sets), wanted)
    assert set(found) <= set(wanted)
