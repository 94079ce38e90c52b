"""Windows over token streams, and the documents they are made of."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from megatron_core.data.datasets.order import MixedOrder, spread
from megatron_core.data.datasets.spans import DocumentSpan, read_spans
from megatron_core.data.datasets.windows import TokenWindows, open_streams
from megatron_core.data.indexed import IndexedWriter
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


def tokens_of(windows: TokenWindows, source: str, item: int) -> list[int]:
    length = windows.length + windows.shared
    tokens, _ = read_spans(windows.streams, [windows.spans(source, item)], length)
    return [int(token) for token in tokens[0]]


@pytest.mark.parametrize(
    ("length", "shared", "books", "notes"),
    [(8, 1, 5, 0), (7, 1, 6, 1), (46, 1, 1, 0), (1, 1, 46, 7), (8, 0, 5, 1), (47, 0, 1, 0)],
)
def test_windows_cover_the_stream(
    folder: Path, length: int, shared: int, books: int, notes: int
) -> None:
    windows = TokenWindows(open_streams(folder), length, shared=shared)
    assert windows.counts == {"books": books, "notes": notes}
    for source, first in (("books", 0), ("notes", 100)):
        count = windows.counts[source]
        for i in range(count):
            start = first + i * length
            assert tokens_of(windows, source, i) == list(range(start, start + length + shared))
        # With a shared token all but the first are a target once, up to less than a window.
        assert sum(LENGTHS[source]) - shared - count * length < length


@pytest.mark.parametrize("length", [1, 2, 8, 11, 46])
def test_spans_end_where_documents_do(folder: Path, length: int) -> None:
    windows = TokenWindows(open_streams(folder), length)
    edges = {0, 10, 11, 41, 47}  # of the documents of books
    for item in range(windows.counts["books"]):
        spans = windows.spans("books", item)
        assert sum(span.tokens for span in spans) == length + 1
        start = item * length
        for span in spans:
            assert span.first == start
            start += span.tokens
            assert not edges & set(range(span.first + 1, start))
        assert {span.first for span in spans[1:]} <= edges


def test_an_empty_document_has_no_span(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "a_text_document", np.dtype(np.uint16)) as writer:
        for document in ([], [1, 2], [], [], [3], []):
            writer.write(document)
    windows = TokenWindows(open_streams(tmp_path), 2)
    assert windows.spans("a", 0) == [DocumentSpan("a", 0, 2), DocumentSpan("a", 2, 1)]


def test_documents_are_numbered_and_padding_is_none(folder: Path) -> None:
    spans = [[DocumentSpan("notes", 1, 2), DocumentSpan("books", 40, 3)], [], [("notes", 0, 1)]]
    tokens, documents = read_spans(open_streams(folder), spans, 6)  # type: ignore[arg-type]
    assert tokens.tolist() == [[101, 102, 40, 41, 42, 0], [0] * 6, [100, 0, 0, 0, 0, 0]]
    assert documents.tolist() == [[0, 0, 1, 1, 1, -1], [-1] * 6, [0, -1, -1, -1, -1, -1]]


def test_an_empty_mixture_takes_what_fills_a_window(folder: Path) -> None:
    order = MixedOrder(TokenWindows(open_streams(folder), 8), {}, seed=1)
    assert sorted(order.locate(k)[0].first for k in range(5)) == [0, 8, 16, 24, 32]
    assert order.mixture.epoch_size == 5


@pytest.mark.parametrize(
    ("weights", "length", "message"),
    [
        ({"notes": 1.0}, 8, "source notes fills no sequence: ingest more text"),
        ({"books": 1.0, "letters": 1.0}, 8, "source letters has no tokens"),
        ({}, 60, "no source fills a sequence"),
    ],
)
def test_short_sources_are_refused(
    folder: Path, weights: dict[str, float], length: int, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        MixedOrder(TokenWindows(open_streams(folder), length), weights, seed=1)


def test_a_folder_without_datasets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="has no indexed datasets: run `reforge tokenize`"):
        open_streams(tmp_path)


@pytest.mark.parametrize(
    ("count", "length"), [(1, 3), (4, 3), (9, 3), (16, 3), (17, 3), (100, 3), (9, 60)]
)
def test_a_spread_is_even_from_start_to_end(folder: Path, count: int, length: int) -> None:
    windows = TokenWindows(open_streams(folder), length)
    everything = [windows.spans(name, i) for name, n in windows.counts.items() for i in range(n)]
    taken = [everything.index(spans) for spans in spread(windows, count)]
    assert len(taken) == min(count, len(everything))
    gaps = [b - a for a, b in pairwise([*taken, len(everything)])]
    assert not taken or (taken[0] == 0 and min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)
