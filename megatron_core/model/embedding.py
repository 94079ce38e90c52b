"""What is added to the embedding of the tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megatron_core.collectives import Span
from megatron_core.config import ModelConfig
from megatron_core.model.linear import by_slice, joined, replicated
from megatron_core.model.place import Place


class Positions(nn.Module):
    """A learned vector for each position, in the sequence or in its document."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.positions, config.hidden))

    def forward(self, x: Tensor, start: int, span: Span, place: Place) -> Tensor:
        """Added to local slices ``x [slice, b, hidden]`` of a chunk that begins at ``start``."""
        parts = []
        for number, part in enumerate(by_slice(x, len(span.local))):
            first = start + span.local[number] * part.shape[0]
            rows = slice(first, first + part.shape[0])
            table = replicated(self.weight, place.leaf, number)
            if place.documents is None:
                parts.append(part + table[rows, None])
            else:
                parts.append(part + F.embedding(place.documents.positions[rows], table))
        return joined(parts)


class TokenTypes(nn.Module):
    """A learned vector for each segment of a sequence; the first for a sequence of one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.token_types, config.hidden))

    def forward(self, x: Tensor, start: int, span: Span, place: Place) -> Tensor:
        """Added to local slices ``x [slice, b, hidden]`` of a chunk that begins at ``start``."""
        parts = []
        for number, part in enumerate(by_slice(x, len(span.local))):
            table = replicated(self.weight, place.leaf, number)
            if place.segments is None:
                parts.append(part + table[0])
            else:
                first = start + span.local[number] * part.shape[0]
                types = place.segments.types[first : first + part.shape[0]]
                parts.append(part + F.embedding(types, table))
        return joined(parts)
