"""Pairs of marked entities to classify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.tuning.encoding.rows import Framing, Rows
from megatron_core.data.tuning.relations import MarkedPair
from megatron_core.data.tuning.texts import check_known


@dataclass(frozen=True)
class EncodedPairs:
    """A row for each pair.

    Attributes:
        rows: Their tokens.
        targets: int64 ``[n]``: the number of each one's class.
        marks: int64 ``[n, 2]``: where in the row the opening marks of head and tail are.
        ids: Of the pairs.
        cut: How many had more tokens than fit.
    """

    rows: Rows
    targets: Tensor
    marks: Tensor
    ids: tuple[str, ...]
    cut: int


def encode_pairs(
    pairs: Sequence[MarkedPair],
    tokenizer: Tokenizer,
    *,
    length: int,
    framed: bool,
    classes: Sequence[str],
) -> EncodedPairs:
    """Rows of ``length`` tokens.

    Of a text that does not fit, the part from the first mark on is kept, with as much before it
    as half of the room that is left after the second mark; if the second mark is too far, what
    stands in the middle is left out.

    Raises:
        CorpusError: a label is none of ``classes``.
        ConfigError: ``length`` is too short.
    """
    framing = Framing(tokenizer, length, framed=framed)
    check_known((one.label for one in pairs), classes, "the data")
    numbers = {name: number for number, name in enumerate(classes)}
    sequences, marks, cut = [], [], 0
    encoded = tokenizer.encode_with_places([one.text for one in pairs])
    for one, (ids, places) in zip(pairs, encoded, strict=True):
        stops = [stop for _, stop in places]
        # The piece that has the mark's character; white space before it may be in it too.
        at = [next(n for n, stop in enumerate(stops) if stop > c) for c in (one.first, one.second)]
        kept = _kept(len(ids), min(at), max(at), framing.room)
        cut += len(kept) < len(ids)
        sequences.append([[ids[n] for n in kept]])
        marks.append([framing.start() + kept.index(n) for n in at])
    return EncodedPairs(
        framing.rows(sequences),
        torch.tensor([numbers[one.label] for one in pairs], dtype=torch.int64),
        torch.tensor(marks, dtype=torch.int64).reshape(-1, 2),
        tuple(one.id for one in pairs),
        cut,
    )


def _kept(count: int, first: int, second: int, room: int) -> list[int]:
    """Which of ``count`` pieces stay; ``first`` and ``second`` are the marks'."""
    if count <= room:
        return list(range(count))
    if second - first < room // 2:
        before = min(first, (room - (second - first)) // 2)
        start = min(first - before, count - room)
        return list(range(start, start + room))
    # Each mark with what follows it.
    half = room - room // 2
    after = min(room // 2, count - second)
    return [*range(first, first + half), *range(max(second, first + half), second + after)]
