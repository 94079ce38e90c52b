"""Pairs of segments: framed, cut at words, and in half of the samples not as they were."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from megatron_core.data.datasets.order import MixedOrder
from megatron_core.data.datasets.pairs import DocumentPieces, Pairs, read_pairs
from megatron_core.data.datasets.spans import Frame
from megatron_core.data.datasets.windows import open_streams
from megatron_core.data.indexed import IndexedDataset, IndexedWriter

CLS, SEP = 1, 2
LENGTH = 20
BEGINS = np.arange(1000) % 3 == 0
KINDS = ("sentence_order", "next_sentence")
Kind = Literal["sentence_order", "next_sentence"]


@pytest.fixture
def streams(tmp_path: Path) -> dict[str, IndexedDataset]:
    """Tokens that count up, so that a segment tells where it is from."""
    token = 10
    with IndexedWriter(tmp_path / "a_text_document", np.dtype(np.uint16)) as writer:
        for length in [5, 1, 30, 12, 17, 2, 40, 0, 9]:
            writer.write(range(token, token + length))
            token += length
    return open_streams(tmp_path)


def pairs(
    streams: dict[str, IndexedDataset], samples: list[int], kind: Kind, seed: int = 1
) -> Pairs:
    pieces = DocumentPieces(streams, LENGTH)
    order = MixedOrder(pieces, {}, seed=1)
    return read_pairs(
        streams, pieces, [order.locate(k)[0] for k in samples], samples, kind=kind, length=LENGTH,
        frame=Frame(CLS, SEP), begins_word=BEGINS, seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_framed_and_its_label_is_true(
    kind: Kind, streams: dict[str, IndexedDataset]
) -> None:
    made = pairs(streams, list(range(200)), kind)
    for tokens, types, label, documents in zip(
        made.tokens.tolist(), made.types.tolist(), made.labels.tolist(), made.documents.tolist(),
        strict=True,
    ):  # fmt: skip
        end = LENGTH - tokens[::-1].index(SEP)
        middle = tokens.index(SEP)
        before, after = tokens[1:middle], tokens[middle + 1 : end - 1]
        assert tokens == [CLS, *before, SEP, *after, SEP, *[0] * (LENGTH - end)]
        assert types == [0] * (middle + 1) + [1] * (end - middle - 1) + [0] * (LENGTH - end)
        assert documents == [0] * end + [-1] * (LENGTH - end)
        assert before and after
        for part in (before, after):
            assert part == list(range(part[0], part[0] + len(part)))
        follows = after[0] == before[-1] + 1
        assert label == (not follows)
        if label and kind == "sentence_order":
            assert before[0] == after[-1] + 1
        second = before if label and kind == "sentence_order" else after
        whole_words = [t for t in (before + after) if BEGINS[t]]
        assert BEGINS[second[0]] or kind == "next_sentence" or len(whole_words) < 2


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_them_are_not_as_they_were(kind: Kind, streams: dict[str, IndexedDataset]) -> None:
    share = float(pairs(streams, list(range(2000)), kind).labels.double().mean())
    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / 2000)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_its_samples_own(kind: Kind, streams: dict[str, IndexedDataset]) -> None:
    together = pairs(streams, [3, 900, 2**40], kind)
    for row, sample in enumerate([3, 900, 2**40]):
        alone = pairs(streams, [sample], kind)
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert alone.labels[0] == together.labels[row]
    samples = list(range(50))
    assert not torch.equal(
        pairs(streams, samples, kind).tokens, pairs(streams, samples, kind, seed=2).tokens
    )


def test_every_other_piece_is_drawn_and_never_the_same(streams: dict[str, IndexedDataset]) -> None:
    made = pairs(streams, list(range(3000)), "next_sentence")
    pieces = DocumentPieces(streams, LENGTH)
    starts = {int(streams["a"].tokens[pieces.spans("a", i)[0].first]) for i in range(10)}
    found: dict[int, set[int]] = {}
    for row in made.tokens[made.labels == 1].tolist():
        middle = row.index(SEP)
        found.setdefault(row[1], set()).add(row[middle + 1])
    assert pieces.counts["a"] == len(starts) == 10
    assert found == {start: starts - {start} for start in starts}
