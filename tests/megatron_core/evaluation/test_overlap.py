"""Shared runs of tokens against a search that tries every pair of places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.evaluation import overlap
from megatron_core.evaluation.overlap import Overlaps

# Few tokens, so that runs repeat within and between sequences: states are cloned, links are deep.
texts = st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=4)


def naive(sequence: Sequence[int], streams: Sequence[Sequence[int]]) -> list[int]:
    """The longest run of a stream that ends at each token of ``sequence``."""
    found = []
    for end in range(1, len(sequence) + 1):
        lengths = [0]
        for stream in streams:
            for stop in range(1, len(stream) + 1):
                shared = 0
                while (
                    shared < min(end, stop)
                    and sequence[end - 1 - shared] == stream[stop - 1 - shared]
                ):
                    shared += 1
                lengths.append(shared)
        found.append(max(lengths))
    return found


@given(texts, texts)
def test_runs_are_those_of_a_search_of_every_place(
    sequences: list[list[int]], streams: list[list[int]]
) -> None:
    overlaps = Overlaps(sequences)
    overlaps.read(np.array(stream, np.uint16) for stream in streams)
    assert [one.tolist() for one in overlaps.ending()] == [
        naive(sequence, streams) for sequence in sequences
    ]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(1, 5))
def test_a_stream_is_read_on_where_a_chunk_ends(stream: list[int], chunk: int) -> None:
    sequence = [0, 1, 2, 0, 1, 1, 2, 0]
    whole, pieces = Overlaps([sequence]), Overlaps([sequence])
    whole.read([np.array(stream)])
    kept, overlap._CHUNK = overlap._CHUNK, chunk
    try:
        pieces.read([np.array(stream)])
    finally:
        overlap._CHUNK = kept
    assert pieces.ending()[0].tolist() == whole.ending()[0].tolist()


def test_runs_end_where_a_sequence_or_a_stream_does() -> None:
    overlaps = Overlaps([[5, 6], [7, 8]])
    overlaps.read([np.array([6, 7]), np.array([5]), np.array([6, 7, 8])])
    assert [one.tolist() for one in overlaps.ending()] == [[1, 1], [1, 2]]


def test_no_token_is_taken_for_what_stands_between() -> None:
    overlaps = Overlaps([[0, 0], [65_535]])
    overlaps.read([np.array([0, 65_535, 0], np.uint16)])
    assert [one.tolist() for one in overlaps.ending()] == [[1, 1], [1]]


def test_thousands_of_tokens_against_numpy() -> None:
    generator = np.random.default_rng(1)
    stream = generator.integers(0, 30, 20_000)
    copied = stream[777:900].tolist()
    sequences = [generator.integers(0, 30, 200).tolist() + copied, copied[3:50]]
    overlaps = Overlaps(sequences)
    overlaps.read([stream])
    runs = [one.max() for one in overlaps.ending()]
    assert runs[0] >= len(copied)
    assert runs[1] == 47
    text = " ".join(map(str, stream))
    run = sequences[0][200 - (runs[0] - 123) : 200 + 123]
    assert " ".join(map(str, run)) in text
