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
    mask: int,
    vocabulary: int,
    seed: int,
    eligible: Tensor | None = None,
    begins_word: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What an encoder reads and what it has to predict.

    ``config.rate`` of the positions of each sequence are predicted, rounded and at least one. Of
    these ``config.masked`` are replaced by the mask token and ``config.random`` by any token of
    the vocabulary, each by a draw of its own; the others stay.

    With ``begins_word`` words are predicted whole, in a drawn order and as many as fit in that
    number, of which the first is taken in any case.

    Args:
        tokens: int64 ``[b, s]``.
        samples: the global number of each of the ``b`` sequences.
        config: shares.
        mask: the mask token.
        vocabulary: tokens to draw from.
        seed: of the recipe.
        eligible: bool ``[b, s]``, what may be predicted; None is all.
        begins_word: bool ``[b, s]``, where words begin; what comes before the first is one too.

    Returns:
        ``(inputs, targets)``, both int64 ``[b, s]``; targets are ``IGNORED`` where nothing is to
        be predicted.
    """
    inputs, targets = tokens.clone(), torch.full_like(tokens, IGNORED)
    for row, sample in enumerate(samples):
        places = torch.arange(tokens.shape[1])
        if eligible is not None:
            places = places[eligible[row]]
        if not len(places):
            continue
        generator = torch.Generator().manual_seed(_key(seed, sample))
        wanted = max(1, round(config.rate * len(places)))
        if begins_word is None:
            chosen = places[torch.randperm(len(places), generator=generator)[:wanted]]
        else:
            chosen = _choose_words(places, begins_word[row], wanted, generator)
        fate = torch.rand(len(chosen), generator=generator)
        drawn = torch.randint(vocabulary, (len(chosen),), generator=generator)
        truth = tokens[row, chosen]
        replaced = torch.where(fate < config.masked + config.random, drawn, truth)
        inputs[row, chosen] = torch.where(fate < config.masked, mask, replaced)
        targets[row, chosen] = truth
    return inputs, targets


def _choose_words(
    places: Tensor, begins: Tensor, wanted: int, generator: torch.Generator
) -> Tensor:
    """The places of whole words, about ``wanted`` of them."""
    # Where a place is left out, a word ends as well.
    begins = begins[places] | torch.cat([places.new_ones(1), places.diff()]).ne(1)
    begins[0] = True
    starts = begins.nonzero().flatten().tolist()
    words = [
        places[start:stop] for start, stop in zip(starts, [*starts[1:], len(places)], strict=True)
    ]
    chosen: list[Tensor] = []
    for number in torch.randperm(len(words), generator=generator).tolist():
        if wanted <= 0:
            break
        if not chosen or len(words[number]) <= wanted:
            chosen.append(words[number])
            wanted -= len(words[number])
    return torch.cat(chosen)


def _key(seed: int, sample: int) -> int:
    name = f"{seed}:{sample}"
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"masking").digest()
    return int.from_bytes(digest, "little") >> 1
