"""Megatron's order against golden arrays of megatron-core 0.16.1 and a slow reading of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.data.datasets.megatron import (
    MegatronOrder,
    blend_indices,
    gpt_indices,
    normalize,
)
from megatron_core.data.datasets.windows import open_streams
from megatron_core.data.indexed import IndexedWriter
from megatron_core.errors import CorpusError

LENGTHS = [5, 1, 12, 0, 7, 3, 9]

# What GPTDataset builds of these documents, for (length, samples, seed): the last epoch shuffled
# with the others, and apart.
GOLDEN = {
    (4, 6, 1234): (
        [2, 1, 6, 0, 4, 5, 3],
        [(0, 0), (0, 4), (0, 8), (1, 0), (2, 3), (2, 7), (3, 2), (4, 1), (4, 5), (5, 2)],
        [6, 4, 0, 5, 3, 2, 8, 7, 1],
    ),
    (4, 15, 7): (
        [2, 5, 0, 6, 3, 1, 4, 4, 5, 3, 2, 1, 0, 6],
        [
            (0, 0), (0, 4), (0, 8), (1, 0), (2, 1), (3, 0), (3, 4), (3, 8), (6, 2), (6, 6),
            (7, 3), (8, 0), (10, 1), (10, 5), (10, 9), (12, 0), (12, 4), (13, 3), (13, 7),
        ],
        [1, 2, 5, 3, 0, 4, 6, 7, 8, 17, 14, 10, 9, 13, 12, 15, 11, 16],
    ),
    (4, 20, 7): (
        [5, 4, 2, 5, 0, 1, 6, 1, 0, 3, 3, 6, 2, 4, 1, 6, 3, 5, 4, 0, 2],
        [
            (0, 0), (1, 1), (1, 5), (2, 2), (2, 6), (2, 10), (3, 2), (4, 3), (6, 1), (6, 5),
            (7, 0), (8, 3), (11, 2), (11, 6), (12, 1), (12, 5), (12, 9), (13, 1), (13, 5), (15, 1),
            (15, 5), (17, 0), (18, 1), (18, 5), (19, 2), (20, 1), (20, 5), (20, 9),
        ],
        [
            16, 1, 4, 2, 9, 10, 15, 0, 13, 7, 17, 8, 5, 14, 12, 3, 6, 11, 20, 23, 18, 25, 21, 19,
            26, 22, 24,
        ],
    ),
}  # fmt: skip
# Of 12 samples at weights 3, 1, 1: BlendedDataset makes 8 + 3 + 3.
BLEND = (
    [0, 1, 2, 0, 0, 0, 1, 2, 0, 0, 0, 1, 2, 0],
    [0, 0, 0, 1, 2, 3, 1, 1, 4, 5, 6, 2, 2, 7],
)


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_the_three_arrays_are_megatrons(case: tuple[int, int, int]) -> None:
    length, samples, seed = case
    document, sample, shuffle = GOLDEN[case]
    found = gpt_indices(np.array(LENGTHS), length=length, samples=samples, seed=seed)
    assert found["document"].tolist() == document
    assert found["sample"].tolist() == [list(row) for row in sample]
    assert found["shuffle"].tolist() == shuffle
    assert [found[name].dtype for name in ("document", "sample", "shuffle")] == [
        np.int32, np.int32, np.uint32
    ]  # fmt: skip


def test_the_blend_is_megatrons() -> None:
    found = blend_indices(normalize([3.0, 1.0, 1.0]), 14)
    assert (found["source"].tolist(), found["sample"].tolist()) == BLEND
    assert (found["source"].dtype, found["sample"].dtype) == (np.int16, np.int64)


corpora = st.lists(st.integers(0, 20), min_size=1, max_size=15).filter(lambda x: sum(x) > 12)


@given(corpora, st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_they_are_what_walking_over_the_tokens_gives(
    lengths: list[int], length: int, samples: int, seed: int
) -> None:
    random, total = np.random.RandomState(seed), sum(lengths)
    epochs = 1
    while epochs * total < samples * length + 1:
        epochs += 1
    sure = ((epochs - 1) * total - 1) // length
    apart = epochs > 1 and samples - sure < int(0.8 * ((total - 1) // length))
    documents: list[int] = []
    for together in [epochs - 1, 1] if apart else [epochs]:
        part = np.array(list(range(len(lengths))) * together, dtype=np.int32)
        random.shuffle(part)
        documents += part.tolist()
    tokens = [(place, i) for place, d in enumerate(documents) for i in range(lengths[d])]
    rows = [(0, 0), *(tokens[at] for at in range(length, len(tokens), length))]
    shuffle: list[int] = []
    for start, stop in [(0, sure), (sure, len(rows) - 1)] if apart else [(0, len(rows) - 1)]:
        part = np.arange(start, stop, dtype=np.uint32)
        random.shuffle(part)
        shuffle += part.tolist()
    found = gpt_indices(np.array(lengths), length=length, samples=samples, seed=seed)
    assert found["document"].tolist() == documents
    assert found["sample"].tolist() == [list(row) for row in rows]
    assert found["shuffle"].tolist() == shuffle


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 200))
def test_the_blend_takes_who_is_furthest_behind(weights: list[int], samples: int) -> None:
    shares = normalize([float(w) for w in weights])
    given_ = [0] * len(shares)
    found = blend_indices(shares, samples)
    for i in range(samples):
        behind = [share * max(i, 1) - n for share, n in zip(shares, given_, strict=True)]
        chosen = behind.index(max(behind))
        assert (found["source"][i], found["sample"][i]) == (chosen, given_[chosen])
        given_[chosen] += 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three sources with tokens of their own."""
    for number, source in enumerate(("books", "notes", "talks")):
        token = 1000 * number
        with IndexedWriter(tmp_path / f"{source}_text_document", np.dtype(np.uint16)) as writer:
            for length in LENGTHS:
                writer.write(range(token, token + length))
                token += length
    return tmp_path


def test_samples_are_read_along_the_shuffled_documents(folder: Path) -> None:
    streams = open_streams(folder)
    document, _, shuffle = GOLDEN[4, 15, 7]
    order = MegatronOrder(streams, {"notes": 1.0}, length=4, samples=15, seed=7)
    starts = np.cumsum([0, *LENGTHS])
    tokens = [1000 + t for d in document for t in range(starts[d], starts[d + 1])]
    for k in range(15):
        spans = order.locate(k)
        read = [t for s in spans for t in streams[s.source].tokens[s.first : s.first + s.tokens]]
        assert read == tokens[shuffle[k] * 4 : shuffle[k] * 4 + 5]
        assert all(span.source == "notes" and span.tokens for span in spans)


def test_blended_sources_each_keep_an_order_of_their_own(folder: Path) -> None:
    """Each is asked for its share and a surplus, whatever the recipe's order of the names."""
    streams = open_streams(folder)
    order = MegatronOrder(
        streams, {"talks": 2.0, "books": 6.0, "notes": 2.0}, length=4, samples=15, seed=7
    )
    blend = blend_indices(normalize([6.0, 2.0, 2.0]), 15)
    for k in range(15):
        name = ("books", "notes", "talks")[blend["source"][k]]
        # ⌈⌈15 · share⌉ · 1.005⌉: for the tenth sample of books an epoch is not enough.
        asked = {"books": 10, "notes": 4, "talks": 4}[name]
        alone = MegatronOrder(streams, {name: 1.0}, length=4, samples=asked, seed=7)
        assert order.locate(k) == alone.locate(int(blend["sample"][k]))


def test_a_source_that_fills_no_sample_is_refused(folder: Path) -> None:
    with pytest.raises(CorpusError, match="source notes fills no sequence"):
        MegatronOrder(open_streams(folder), {"notes": 1.0}, length=37, samples=3, seed=1)
    with pytest.raises(CorpusError, match="source letters has no tokens"):
        MegatronOrder(open_streams(folder), {"letters": 1.0}, length=4, samples=3, seed=1)


def test_training_for_longer_moves_samples_there_but_not_here(folder: Path) -> None:
    """Why this is not the default."""
    streams = open_streams(folder)
    runs = [
        MegatronOrder(streams, {"notes": 1.0}, length=4, samples=n, seed=7) for n in (9, 20)
    ]  # fmt: skip
    assert [runs[0].locate(k) for k in range(9)] != [runs[1].locate(k) for k in range(9)]
