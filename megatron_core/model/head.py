"""What stands between the final hidden states and the logits."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from kernels.gelu import gelu
from megatron_core.config import ModelConfig
from megatron_core.model.linear import joined, replicated, whole
from megatron_core.model.norm import Norm
from megatron_core.model.place import Place


class Transform(nn.Module):
    """A dense layer, GELU and a norm (Devlin et al., 2019)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.hidden, config.hidden))
        self.bias = nn.Parameter(torch.zeros(config.hidden))
        self.norm = Norm(config)

    def forward(self, x: Tensor, place: Place, slices: int) -> Tensor:
        """``[slice, b, hidden]`` to the same."""
        parts = whole(x, self.weight, place.leaf, slices, x.dtype)
        inner = [
            gelu(part + replicated(self.bias, place.leaf, number), tanh=False)
            for number, part in enumerate(parts)
        ]
        return cast(Tensor, self.norm(joined(inner), place, slices))
