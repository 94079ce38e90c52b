"""Best-fit packing: what the algorithm promises, and no token lost."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.data.datasets.fingerprints import IndexCache
from megatron_core.data.datasets.packing import PackedDocuments, best_fit
from megatron_core.data.datasets.spans import DocumentSpan
from megatron_core.data.datasets.windows import open_streams
from megatron_core.data.indexed import IndexedWriter


def plain_best_fit(sizes: list[int], capacity: int) -> list[int]:
    """By looking at every bin for every item."""
    bins = [-1] * len(sizes)
    room: list[int] = []
    used: list[int] = []  # bins, those used last at the end
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        holding = [b for b in used if room[b] >= sizes[item]]
        least = min((room[b] for b in holding), default=None)
        if least is None:
            room.append(capacity)
            chosen = len(room) - 1
        else:
            chosen = [b for b in holding if room[b] == least][-1]
            used.remove(chosen)
        room[chosen] -= sizes[item]
        used.append(chosen)
        bins[item] = chosen
    return bins


@given(
    st.integers(1, 40).flatmap(
        lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), min_size=1, max_size=60))
    )
)
def test_items_go_where_the_least_room_is_left(case: tuple[int, list[int]]) -> None:
    capacity, sizes = case
    found = best_fit(np.array(sizes, dtype=np.int64), capacity)
    assert found.tolist() == plain_best_fit(sizes, capacity)
    loads = Counter[int]()
    for bin, size in zip(found.tolist(), sizes, strict=True):
        loads[bin] += size
    assert max(loads.values()) <= capacity
    assert set(loads) == set(range(len(loads)))


def test_a_published_worst_case_is_met() -> None:
    """Johnson's: eleven bins where nine would do."""
    sizes = [51] * 6 + [27] * 6 + [26] * 6 + [23] * 12
    assert max(best_fit(np.array(sizes), 100)) + 1 == 11


def write(folder: Path, lengths: list[int]) -> None:
    with IndexedWriter(folder / "a_text_document", np.dtype(np.uint16)) as writer:
        start = 0
        for length in lengths:
            writer.write(range(start, start + length))
            start += length


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=25).filter(any),
    capacity=st.integers(4, 12),
    shared=st.sampled_from([0, 1]),
    frame=st.sampled_from([0, 2]),
)
def test_every_prediction_is_there_once(
    lengths: list[int], capacity: int, shared: int, frame: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("packed")
    write(folder, lengths)
    packed = PackedDocuments(open_streams(folder), capacity, shared=shared, frame=frame)
    spans = [packed.spans("a", item) for item in range(packed.counts["a"])]
    assert all(0 < sum(s.tokens + frame for s in sequence) <= capacity for sequence in spans)
    assert all(sequence == sorted(sequence) for sequence in spans)
    pieces = sorted(span for sequence in spans for span in sequence)
    edges = np.cumsum([0, *lengths])
    # Of each document: its tokens when none are shared, else its pairs of neighbours.
    covered = Counter(
        t for s in pieces for t in range(s.first, s.first + s.tokens - (s.tokens > shared) * shared)
    )
    wanted = {
        t for start, end in pairwise(edges)
        for t in range(start, end - (end - start > shared) * shared)
    }  # fmt: skip
    assert covered == Counter(wanted)
    short = [length for length in lengths if 0 < length <= capacity - frame]
    whole = {(s.first, s.tokens) for s in pieces}
    for start, length in zip(edges, lengths, strict=False):
        assert (start, length) in whole or length not in short


def test_a_long_document_is_cut_with_a_shared_token(tmp_path: Path) -> None:
    write(tmp_path, [11, 3])
    packed = PackedDocuments(open_streams(tmp_path), 5)
    pieces = [packed.spans("a", item) for item in range(packed.counts["a"])]
    assert [DocumentSpan("a", 0, 5)] in pieces
    assert [DocumentSpan("a", 4, 5)] in pieces
    assert [DocumentSpan("a", 8, 3)] in pieces  # and the other has three tokens too: no room
    assert [DocumentSpan("a", 11, 3)] in pieces


def test_a_kept_packing_is_the_same(tmp_path: Path) -> None:
    write(tmp_path, [3, 9, 2, 6, 5, 5, 1])
    streams = open_streams(tmp_path)
    fresh = PackedDocuments(streams, 8)
    for _ in range(2):
        kept = PackedDocuments(streams, 8, cache=IndexCache(tmp_path / "data"))
        assert [kept.spans("a", i) for i in range(kept.counts["a"])] == [
            fresh.spans("a", i) for i in range(fresh.counts["a"])
        ]
    assert len(list((tmp_path / "data").glob("packed-*"))) == 1
