"""Vectors before each text in place of embedded tokens (Lester et al., 2021; Liu et al., 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megatron_core.collectives import Span
from megatron_core.config import SoftPromptConfig
from megatron_core.model.linear import by_slice, joined, replicated
from megatron_core.model.place import Place


class SoftPrompt(nn.Module):
    """The embeddings of the first positions of each sequence, or of each document in it."""

    fp32 = True  # whatever the model computes in

    def __init__(self, config: SoftPromptConfig, hidden: int) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.weight = nn.Parameter(torch.empty(config.tokens, hidden))
        self.encoder = None if config.encoder is None else PromptEncoder(hidden, config.encoder)

    def forward(self, x: Tensor, start: int, span: Span, place: Place) -> Tensor:
        """Put into local slices ``x [slice, b, hidden]`` of a chunk that begins at ``start``."""
        parts = []
        for number, part in enumerate(by_slice(x, len(span.local))):
            first = start + span.local[number] * part.shape[0]
            positions = torch.arange(first, first + part.shape[0], device=x.device)[:, None]
            if place.documents is not None:
                positions = place.documents.positions[first : first + part.shape[0]]
            # Of every slice, also where it changes nothing: each owes the weights a gradient.
            rows = F.embedding(positions.clamp(max=self.tokens - 1), self.vectors(place, number))
            inside = (positions < self.tokens)[..., None]
            parts.append(torch.where(inside, rows.to(part.dtype), part))
        return joined(parts)

    def vectors(self, place: Place, slice: int = 0) -> Tensor:
        """fp32 ``[tokens, hidden]``."""
        weight = replicated(self.weight, place.leaf, slice)
        return weight if self.encoder is None else self.encoder(weight, place, slice)


class PromptEncoder(nn.Module):
    """Two linear layers with a ReLU between them, which make the vectors."""

    fp32 = True

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.up_weight = nn.Parameter(torch.empty(width, hidden))
        self.up_bias = nn.Parameter(torch.zeros(width))
        self.down_weight = nn.Parameter(torch.empty(hidden, width))
        self.down_bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor, place: Place, slice: int) -> Tensor:
        """``[tokens, hidden]`` to the same."""
        up, up_bias, down, down_bias = (
            replicated(p, place.leaf, slice)
            for p in (self.up_weight, self.up_bias, self.down_weight, self.down_bias)
        )
        return F.linear(torch.relu(F.linear(x, up) + up_bias), down) + down_bias
