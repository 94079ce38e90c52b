"""Masked-language-model inputs (Devlin et al., 2019), a function of (seed, sample number)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.config import MaskingConfig


def mask_tokens(
    tokens: Tensor,
    samples: Sequence[int],
    *,
    config: MaskingConfig,
    vocabulary: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """What an encoder reads and what it has to predict.

    ``config.rate`` of the positions of each sequence are predicted, rounded and at least one. Of
    these ``config.masked`` are replaced by the mask token and ``config.random`` by any token of
    the vocabulary, each by a draw of its own; the others stay.

    Args:
        tokens: int64 ``[b, s]``.
        samples: the global number of each of the ``b`` sequences.
        config: shares, and the id of the mask token.
        vocabulary: tokens to draw from.
        seed: of the recipe.

    Returns:
        ``(inputs, targets)``, both int64 ``[b, s]``; targets are ``IGNORED`` where nothing is to
        be predicted.
    """
    inputs, targets = tokens.clone(), torch.full_like(tokens, IGNORED)
    length = tokens.shape[1]
    predicted = max(1, round(config.rate * length))
    for row, sample in enumerate(samples):
        generator = torch.Generator().manual_seed(_key(seed, sample))
        chosen = torch.randperm(length, generator=generator)[:predicted].to(tokens.device)
        fate = torch.rand(predicted, generator=generator).to(tokens.device)
        drawn = torch.randint(vocabulary, (predicted,), generator=generator).to(tokens.device)
        truth = tokens[row, chosen]
        replaced = torch.where(fate < config.masked + config.random, drawn, truth)
        inputs[row, chosen] = torch.where(fate < config.masked, config.token, replaced)
        targets[row, chosen] = truth
    return inputs, targets


def _key(seed: int, sample: int) -> int:
    name = f"{seed}:{sample}"
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"masking").digest()
    return int.from_bytes(digest, "little") >> 1
