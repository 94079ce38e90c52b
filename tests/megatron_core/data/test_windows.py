"""Windows over token streams."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from megatron_core.data.indexed import IndexedWriter
from megatron_core.data.windows import TokenWindows, open_streams
from megatron_core.errors import CorpusError

LENGTHS = {"books": [10, 1, 30, 6], "notes": [5, 3]}  # 47 and 8 tokens


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tokens 0, 1, 2, … of books; 100, 101, … of notes."""
    for source, lengths in LENGTHS.items():
        token = 0 if source == "books" else 100
        with IndexedWriter(tmp_path / f"{source}_text_document", np.dtype(np.uint16)) as writer:
            for length in lengths:
                writer.write(range(token, token + length))
                token += length
    return tmp_path


@pytest.mark.parametrize(
    ("length", "books", "notes"), [(8, 5, 0), (7, 6, 1), (46, 1, 0), (1, 46, 7)]
)
def test_windows_cover_the_stream_and_share_one_token(
    folder: Path, length: int, books: int, notes: int
) -> None:
    windows = TokenWindows(open_streams(folder), length)
    assert windows.counts == {"books": books, "notes": notes}
    for source, first in (("books", 0), ("notes", 100)):
        count = windows.counts[source]
        if count:
            read = windows.read([(source, i) for i in range(count)])
            expected = [
                list(range(first + i * length, first + (i + 1) * length + 1)) for i in range(count)
            ]
            assert read.tolist() == expected
            # Every token but the first is a target once, up to less than a window at the end.
            total = sum(LENGTHS[source])
            assert total - 1 - count * length < length


def test_places_may_come_in_any_order(folder: Path) -> None:
    windows = TokenWindows(open_streams(folder), 3)
    read = windows.read([("notes", 1), ("books", 4), ("notes", 1)])
    assert read.tolist() == [[103, 104, 105, 106], [12, 13, 14, 15], [103, 104, 105, 106]]


def test_an_empty_mixture_takes_what_fills_a_window(folder: Path) -> None:
    mixture = TokenWindows(open_streams(folder), 8).mixture({}, seed=1)
    assert {mixture.locate(k) for k in range(mixture.epoch_size)} == {
        ("books", i) for i in range(5)
    }


@pytest.mark.parametrize(
    ("weights", "length", "message"),
    [
        ({"notes": 1.0}, 8, "source notes has 8 tokens, less than one window of 9"),
        ({"books": 1.0, "letters": 1.0}, 8, "source letters has 0 tokens"),
        ({}, 60, "no source fills one window of 61 tokens"),
    ],
)
def test_short_sources_are_refused(
    folder: Path, weights: dict[str, float], length: int, message: str
) -> None:
    windows = TokenWindows(open_streams(folder), length)
    with pytest.raises(CorpusError, match=message):
        windows.mixture(weights, seed=1)


def test_a_folder_without_datasets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="has no indexed datasets: run `reforge tokenize`"):
        open_streams(tmp_path)


@pytest.mark.parametrize(
    ("count", "length"), [(1, 3), (4, 3), (9, 3), (16, 3), (17, 3), (100, 3), (9, 60)]
)
def test_a_spread_is_even_from_start_to_end(folder: Path, count: int, length: int) -> None:
    windows = TokenWindows(open_streams(folder), length)
    everything = [(name, i) for name, n in windows.counts.items() for i in range(n)]
    taken = [everything.index(place) for place in windows.spread(count)]
    assert len(taken) == min(count, len(everything))
    gaps = [b - a for a, b in pairwise([*taken, len(everything)])]
    assert not taken or (taken[0] == 0 and min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)
