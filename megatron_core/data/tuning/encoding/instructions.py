"""Conversations to learn answers from, each in a row of its own or packed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.data.datasets.packing import best_fit
from megatron_core.data.datasets.spans import NO_DOCUMENT, PADDING
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.tuning.chat import ChatTemplate
from megatron_core.data.tuning.encoding.conversations import encode_parts
from megatron_core.data.tuning.encoding.rows import Rows, pad
from megatron_core.data.tuning.instructions import Conversation
from megatron_core.errors import CorpusError


@dataclass(frozen=True)
class EncodedConversations:
    """Rows of conversations.

    Attributes:
        rows: Their tokens; ``documents`` numbers the conversations of a row.
        targets: int64 ``[n, length]``: the token after each place where that is the assistant's,
            the one that ends its turn included, else ``IGNORED``.
        ids: Of the conversations of each row, in their order.
        counts: Conversations that lost tokens (``cut``), or do not fit (``too_long_left_out``).
    """

    rows: Rows
    targets: Tensor
    ids: tuple[tuple[str, ...], ...]
    counts: Mapping[str, int]


def encode_conversations(
    conversations: Sequence[Conversation],
    template: ChatTemplate,
    tokenizer: Tokenizer,
    *,
    length: int,
    packed: bool,
) -> EncodedConversations:
    """Rows of ``length`` tokens.

    Of a conversation that is too long, what others than the assistant say loses its end; if that
    is not enough it is left out.

    Args:
        conversations: In the order of their numbers.
        template: How they become text.
        tokenizer: Opened with ``parse_special_tokens``.
        length: Tokens of a row.
        packed: Several in a row, as :func:`best_fit` places them; rows in the order of their
            first conversations.

    Raises:
        CorpusError: somebody says a control token; every conversation is too long.
        ConfigError: the tokenizer was opened otherwise.
    """
    names = [one.id for one in conversations]
    parts = [template.parts(one.turns) for one in conversations]
    counts: Counter[str] = Counter()
    kept, ids = [], []
    for name, one in zip(names, encode_parts(parts, names, tokenizer), strict=True):
        fitted = one.without(len(one.ids) - length)
        if fitted is None:
            counts["too_long_left_out"] += 1
            continue
        counts["cut"] += len(fitted.ids) < len(one.ids)
        kept.append(fitted)
        ids.append(name)
    if not kept:
        raise CorpusError(
            f"none of {len(conversations)} conversations fits into {length} tokens: raise it"
        )
    bins = (
        _bins([len(one.ids) for one in kept], length) if packed else [[n] for n in range(len(kept))]
    )
    rows = Rows(
        pad([[t for n in one for t in kept[n].ids] for one in bins], length, PADDING),
        None,
        pad(
            [[at for at, n in enumerate(one) for _ in kept[n].ids] for one in bins],
            length,
            NO_DOCUMENT,
        ),
    )
    targets = pad([[t for n in one for t in kept[n].targets()] for one in bins], length, IGNORED)
    named = tuple(tuple(ids[n] for n in one) for one in bins)
    return EncodedConversations(rows, targets, named, dict(sorted((+counts).items())))


def _bins(sizes: Sequence[int], length: int) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    for number, bin in enumerate(best_fit(np.array(sizes, np.int64), length).tolist()):
        found.setdefault(bin, []).append(number)
    return list(found.values())
