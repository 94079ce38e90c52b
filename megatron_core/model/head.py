"""What stands between the final hidden states and the logits."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megatron_core.config import ModelConfig
from megatron_core.model.linear import joined, replicated, whole
from megatron_core.model.norm import Norm
from megatron_core.model.place import Place, Share


class ClassHead(nn.Module):
    """A linear layer that every tensor rank computes alike."""

    sees_whole_sequence = True

    def __init__(self, hidden: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, hidden))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor, place: Place) -> Tensor:
        """Logits ``[b, classes]`` of ``x [b, hidden]``."""
        weight, bias = (replicated(p, place.leaf) for p in (self.weight, self.bias))
        return F.linear(x, weight) + bias


class Pooler(nn.Module):
    """A dense layer and tanh on one position of each sequence (Devlin et al., 2019).

    Every tensor rank computes it alike.
    """

    sees_whole_sequence = True

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden, hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor, place: Place) -> Tensor:
        """``[b, hidden]`` to the same."""
        (inner,) = whole(x, self.weight, place.leaf, 1, x.dtype)
        return torch.tanh(inner + replicated(self.bias, place.leaf))


class Transform(nn.Module):
    """A dense layer, GELU and a norm (Devlin et al., 2019)."""

    def __init__(self, config: ModelConfig, share: Share) -> None:
        super().__init__()
        self.kernels = share.kernels
        self.weight = nn.Parameter(torch.empty(config.hidden, config.hidden))
        self.bias = nn.Parameter(torch.zeros(config.hidden))
        self.norm = Norm(config, share)

    def forward(self, x: Tensor, place: Place, slices: int) -> Tensor:
        """``[slice, b, hidden]`` to the same."""
        parts = whole(x, self.weight, place.leaf, slices, x.dtype)
        inner = [
            self.kernels.gelu(part + replicated(self.bias, place.leaf, number), tanh=False)
            for number, part in enumerate(parts)
        ]
        return cast(Tensor, self.norm(joined(inner), place, slices))
