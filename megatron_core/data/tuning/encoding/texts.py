"""Texts and pairs of texts to classify or to score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.tuning.encoding.rows import Framing, Rows, longest_first
from megatron_core.data.tuning.texts import LabelledText, check_known
from megatron_core.errors import CorpusError


@dataclass(frozen=True)
class EncodedTexts:
    """A row for each text or pair.

    Attributes:
        rows: Their tokens.
        targets: The number of each one's class, int64 ``[n]``, or its score, float32 ``[n]``.
        ids: Of the examples.
        cut: How many had more tokens than fit.
    """

    rows: Rows
    targets: Tensor
    ids: tuple[str, ...]
    cut: int


def encode_texts(
    texts: Sequence[LabelledText],
    tokenizer: Tokenizer,
    *,
    length: int,
    framed: bool,
    classes: Sequence[str] | None = None,
) -> EncodedTexts:
    """Rows of ``length`` tokens as :class:`Framing` has them; of a pair the longer text is cut.

    Args:
        texts: All of them pairs, or none.
        tokenizer: Of the model.
        length: Tokens of a row.
        framed: For an encoder.
        classes: Their numbers are the targets; without them the scores are.

    Raises:
        CorpusError: there are no texts, some are pairs, or one has no known class, or no score.
        ConfigError: ``length`` is too short.
    """
    pairs = {one.second is not None for one in texts}
    if len(pairs) != 1:
        raise CorpusError("some texts are pairs and some are not" if pairs else "no texts")
    paired = pairs.pop()
    framing = Framing(tokenizer, length, framed=framed, texts=1 + paired)
    parts = [tokenizer.encode_batch([one.text for one in texts])]
    if paired:
        parts.append(tokenizer.encode_batch([one.second or "" for one in texts]))
    cut, sequences = 0, []
    for row in zip(*parts, strict=True):
        kept = longest_first([len(ids) for ids in row], framing.room)
        cut += kept != [len(ids) for ids in row]
        sequences.append([ids[:size] for ids, size in zip(row, kept, strict=True)])
    targets = _scores(texts) if classes is None else class_numbers(texts, classes)
    return EncodedTexts(framing.rows(sequences), targets, tuple(one.id for one in texts), cut)


def class_numbers(texts: Sequence[LabelledText], classes: Sequence[str]) -> Tensor:
    """int64 ``[n]``: the place of each label in ``classes``.

    Raises:
        CorpusError: a label is none of them.
    """
    check_known((one.label for one in texts), classes, "the data")
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[str(one.label)] for one in texts], dtype=torch.int64)


def _scores(texts: Sequence[LabelledText]) -> Tensor:
    scores = [one.score for one in texts if one.score is not None]
    if len(scores) < len(texts):
        raise CorpusError(f"{len(texts) - len(scores)} texts have no score: name its field")
    return torch.tensor(scores, dtype=torch.float32)
