"""The next token, by a counter: no generator has a state."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from megatron_core.config import SamplingConfig


class Draws:
    """Uniform numbers in [0, 1) for the tokens after a prompt, the same on every machine.

    Number t is a function of (seed, prompt, t): a continuation depends on no other prompt, and a
    shorter one is the beginning of a longer one.
    """

    def __init__(self, seed: int, prompt: Sequence[int]) -> None:
        self._start = hashlib.sha256(f"{seed}:{','.join(map(str, prompt))}:".encode())

    def __getitem__(self, position: int) -> float:
        """The number of the token at ``position`` after the prompt."""
        digest = self._start.copy()
        digest.update(str(position).encode())
        return (int.from_bytes(digest.digest()[:8], "little") >> 11) * 2.0**-53


def choose(logits: Tensor, config: SamplingConfig, draw: float) -> int:
    """The token that ``draw`` in [0, 1) picks from ``logits [vocabulary]``; any dtype, on the CPU.

    The logits are divided by the temperature, then cut to the ``top_k`` highest, then to the
    fewest that together reach ``top_p`` (Holtzman et al., 2020), at least one. Of equal ones the
    lower number comes first. Temperature 0 takes the highest.
    """
    if config.temperature == 0:
        return int(logits.argmax())
    return pick(_cut(logits.double() / config.temperature, config), draw)


def pick(logits: Tensor, draw: float) -> int:
    """The token whose stretch of the cumulative distribution ``draw`` in [0, 1) falls into."""
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    token = torch.searchsorted(cumulative, draw * cumulative[-1], right=True)
    return min(int(token), len(logits) - 1)


def _cut(logits: Tensor, config: SamplingConfig) -> Tensor:
    """``logits`` with minus infinity for what ``top_k`` and ``top_p`` leave out."""
    if config.top_k is None and config.top_p is None:
        return logits
    ranked, order = torch.sort(logits, descending=True, stable=True)
    kept = ranked[: config.top_k]
    if config.top_p is not None:
        before = kept.softmax(dim=-1).cumsum(dim=-1) - kept.softmax(dim=-1)
        kept = kept[: max(1, int((before < config.top_p).sum()))]
    rest = torch.full_like(logits, -torch.inf)
    return rest.scatter(0, order[: len(kept)], kept)
