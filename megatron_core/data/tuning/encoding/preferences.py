"""Pairs of answers to one prompt, each with it in a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.data.datasets.spans import NO_DOCUMENT, PADDING
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.tuning.chat import ChatTemplate, Part
from megatron_core.data.tuning.encoding.conversations import PartTokens, encode_parts
from megatron_core.data.tuning.encoding.rows import Rows, pad
from megatron_core.data.tuning.instructions import ASSISTANT, Turn
from megatron_core.data.tuning.preferences import Preference
from megatron_core.errors import CorpusError


@dataclass(frozen=True)
class EncodedAnswers:
    """Prompts with answers.

    Attributes:
        rows: Their tokens.
        targets: int64 ``[n, length]``: the token after each place where that is the answer's, the
            one that ends the turn included, else ``IGNORED``.
    """

    rows: Rows
    targets: Tensor


@dataclass(frozen=True)
class EncodedPreferences:
    """The better and the worse answer of each pair, in rows of the same number.

    Attributes:
        chosen: The better ones.
        rejected: The worse ones.
        ids: Of the pairs.
        counts: Pairs whose prompt lost tokens (``cut``), in both rows the same, and pairs that do
            not fit (``too_long_left_out``).
    """

    chosen: EncodedAnswers
    rejected: EncodedAnswers
    ids: tuple[str, ...]
    counts: Mapping[str, int]


def encode_preferences(
    preferences: Sequence[Preference],
    template: ChatTemplate,
    tokenizer: Tokenizer,
    *,
    length: int,
) -> EncodedPreferences:
    """Rows of ``length`` tokens; the loss is on the last answer alone.

    Raises:
        CorpusError: somebody says a control token; every pair is too long.
        ConfigError: the tokenizer was opened otherwise than with ``parse_special_tokens``.
    """
    names = [one.id for one in preferences]
    sides = [
        encode_parts([_parts(one, answer, template) for one, answer in said], names, tokenizer)
        for said in (
            [(one, one.chosen) for one in preferences],
            [(one, one.rejected) for one in preferences],
        )
    ]
    counts: Counter[str] = Counter()
    chosen, rejected, ids = [], [], []
    for name, better, worse in zip(names, *sides, strict=True):
        excess = max(len(better.ids), len(worse.ids)) - length
        fitted = better.without(excess), worse.without(excess)
        if fitted[0] is None or fitted[1] is None:
            counts["too_long_left_out"] += 1
            continue
        counts["cut"] += excess > 0
        chosen.append(fitted[0])
        rejected.append(fitted[1])
        ids.append(name)
    if not ids:
        raise CorpusError(f"none of {len(preferences)} pairs fits into {length} tokens: raise it")
    return EncodedPreferences(
        _answers(chosen, length), _answers(rejected, length), tuple(ids),
        dict(sorted((+counts).items())),
    )  # fmt: skip


def _parts(one: Preference, answer: str, template: ChatTemplate) -> list[Part]:
    """Of the conversation, with the loss on its last turn alone."""
    parts = template.parts([*one.prompt, Turn(ASSISTANT, answer)])
    last = max(n for n, part in enumerate(parts) if part.trained)
    while last and parts[last - 1].trained:
        last -= 1
    # What was said before is not cut either when it is the assistant's: it keeps `trained` off
    # and `content` off.
    return [Part(part.text) if part.trained and n < last else part for n, part in enumerate(parts)]


def _answers(found: Sequence[PartTokens], length: int) -> EncodedAnswers:
    rows = Rows(
        pad([one.ids for one in found], length, PADDING),
        None,
        pad([[0] * len(one.ids) for one in found], length, NO_DOCUMENT),
    )
    return EncodedAnswers(rows, pad([one.targets() for one in found], length, IGNORED))
