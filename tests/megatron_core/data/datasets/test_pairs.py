"""Pairs of segments: framed, cut at words, and in half of the samples not as they were."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from megatron_core.data.datasets.order import MixedOrder
from megatron_core.data.datasets.pairs import DocumentPieces, Kind, Pairs
from megatron_core.data.datasets.spans import Frame, read_spans
from megatron_core.data.datasets.windows import open_streams
from megatron_core.data.indexed import IndexedDataset, IndexedWriter
from megatron_core.data.vocabulary import Vocabulary

CLS, SEP = 1, 2
LENGTH = 20
BEGINS = np.arange(1000) % 3 == 0  # words of three tokens
BEGINS[[CLS, SEP]] = True
VOCABULARY = Vocabulary(1000, {"cls": CLS, "sep": SEP}, BEGINS)
KINDS = ("sentence_order", "next_sentence")
DOCUMENTS = [range(start, start + n) for start, n in zip(
    range(12, 1000, 60), [5, 1, 30, 12, 17, 2, 40, 0, 9], strict=False
)]  # fmt: skip


@pytest.fixture
def streams(tmp_path: Path) -> dict[str, IndexedDataset]:
    """Tokens that count up, so that a segment tells where it is from; documents end with [SEP]."""
    with IndexedWriter(tmp_path / "a_text_document", np.dtype(np.uint16)) as writer:
        for document in DOCUMENTS:
            writer.write([*document, SEP])
    return open_streams(tmp_path)


class Made(NamedTuple):
    """The numbers in ``spans`` are of the segments; a type is that of the token's segment."""

    tokens: torch.Tensor
    spans: torch.Tensor
    labels: torch.Tensor


def made_pairs(
    streams: dict[str, IndexedDataset], samples: list[int], kind: Kind, seed: int = 1
) -> Made:
    pieces = DocumentPieces(streams, LENGTH)
    order = MixedOrder(pieces, {}, seed=1)
    pairs = Pairs(streams, pieces, VOCABULARY, kind=kind, seed=seed)
    cut = [pairs.cut(order.locate(k)[0], k) for k in samples]
    read = read_spans(streams, [p.segments for p in cut], LENGTH, Frame(CLS, SEP, pair=True))
    return Made(*read, torch.tensor([p.label for p in cut]))


def segments(tokens: list[int]) -> tuple[list[int], list[int]]:
    """Of a framed pair; each counts up, so it holds no [SEP]."""
    middle, end = tokens.index(SEP), LENGTH - tokens[::-1].index(SEP)
    parts = tokens[1:middle], tokens[middle + 1 : end - 1]
    for part in parts:
        assert part == list(range(part[0], part[0] + len(part)))
    return parts


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_framed_and_its_label_is_true(
    kind: Kind, streams: dict[str, IndexedDataset]
) -> None:
    made = made_pairs(streams, list(range(200)), kind)
    for tokens, spans, label in zip(*(x.tolist() for x in made), strict=True):
        before, after = segments(tokens)
        framed = [CLS, *before, SEP, *after, SEP]
        padding = LENGTH - len(framed)
        assert tokens == [*framed, *[0] * padding]
        sizes = len(before) + 2, len(after) + 1, padding
        assert spans == [0] * sizes[0] + [1] * sizes[1] + [-1] * sizes[2]
        assert label == (after[0] != before[-1] + 1)
        if label and kind == "sentence_order":
            assert before[0] == after[-1] + 1


@pytest.mark.parametrize("kind", KINDS)
def test_edges_do_not_tell_which_segment_came_first(
    kind: Kind, streams: dict[str, IndexedDataset]
) -> None:
    """Words are whole, but where there is one alone to be cut."""
    ends = {document[-1] + 1 for document in DOCUMENTS if document}
    for tokens in made_pairs(streams, list(range(300)), kind).tokens.tolist():
        for part in segments(tokens):
            if len(part) >= 3:
                assert BEGINS[part[0]]
                assert BEGINS[part[-1] + 1] or part[-1] + 1 in ends


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_them_are_not_as_they_were(kind: Kind, streams: dict[str, IndexedDataset]) -> None:
    share = float(made_pairs(streams, list(range(2000)), kind).labels.double().mean())
    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / 2000)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_its_samples_own(kind: Kind, streams: dict[str, IndexedDataset]) -> None:
    together = made_pairs(streams, [3, 900, 2**40], kind)
    for row, sample in enumerate([3, 900, 2**40]):
        alone = made_pairs(streams, [sample], kind)
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert alone.labels[0] == together.labels[row]
    samples = list(range(50))
    assert not torch.equal(
        made_pairs(streams, samples, kind).tokens, made_pairs(streams, samples, kind, seed=2).tokens
    )


def test_another_segment_is_the_end_of_any_other_piece(streams: dict[str, IndexedDataset]) -> None:
    """And no longer than the one whose place it takes, so that the length tells nothing."""
    made = made_pairs(streams, list(range(6000)), "next_sentence")
    pieces = DocumentPieces(streams, LENGTH)
    piece_of, size = {}, {}
    for number in range(pieces.counts["a"]):
        ((_, first, tokens),) = pieces.spans("a", number)
        for token in streams["a"].tokens[first : first + tokens].tolist():
            piece_of[token] = number
            size[number] = size.get(number, 0) + (token != SEP)
    found: dict[int, set[int]] = {}
    for tokens, label in zip(made.tokens.tolist(), made.labels.tolist(), strict=True):
        before, after = segments(tokens)
        if label:
            here, there = piece_of[before[0]], piece_of[after[-1]]
            found.setdefault(here, set()).add(there)
            assert len(before) + len(after) <= size[here]
            assert after[-1] + 3 > max(
                t for t, number in piece_of.items() if number == there and t != SEP
            )
    everything = set(range(pieces.counts["a"]))
    assert len(everything) == 10
    assert found == {number: everything - {number} for number in everything}
