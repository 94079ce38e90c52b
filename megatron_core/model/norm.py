"""Norms: of the residual stream, and of queries and keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from kernels.precision import wide
from megatron_core.collectives import Span, tree_sum
from megatron_core.config import ModelConfig
from megatron_core.model.linear import Shards, joined, replicated
from megatron_core.model.place import GradientLeaf, Place, Share


class Norm(nn.Module):
    """RMSNorm with a learned scale, or LayerNorm with a bias too."""

    def __init__(self, config: ModelConfig, share: Share) -> None:
        super().__init__()
        self.kernels = share.kernels
        self.weight = nn.Parameter(torch.ones(config.hidden))
        self.bias = nn.Parameter(torch.zeros(config.hidden)) if config.norm == "layer" else None
        self.epsilon = config.norm_epsilon

    def forward(self, x: Tensor, place: Place, slices: int = 1) -> Tensor:
        """``x [s, b, hidden]``; each of its ``slices`` gives weight gradients of its own."""
        # A view even of one: the gradients of its two uses are added before that of the residual
        # stream, as with several slices, and unlike chunk's a view's gradient is not copied.
        views = x.chunk(slices) if slices > 1 else [x.view_as(x)]
        return joined([self._one(part, place.leaf, number) for number, part in enumerate(views)])

    def _one(self, x: Tensor, leaf: GradientLeaf | None, slice: int) -> Tensor:
        weight = replicated(self.weight, leaf, slice)
        if self.bias is None:
            return self.kernels.rms_norm(x, weight, self.epsilon)
        return self.kernels.layer_norm(x, weight, replicated(self.bias, leaf, slice), self.epsilon)


class HeadNorm(nn.Module):
    """RMSNorm over each head (Henry et al., 2020); its scale is the same for all heads."""

    def __init__(self, config: ModelConfig, share: Share) -> None:
        super().__init__()
        self.kernels = share.kernels
        self.weight = nn.Parameter(torch.ones(config.head_size))
        self.epsilon = config.norm_epsilon

    def forward(self, shards: Sequence[Tensor], span: Span, place: Place) -> list[Tensor]:
        """``[s, b, heads / T, size]`` of each local shard, which gives a gradient of its own."""
        return [
            self.kernels.rms_norm(x, replicated(self.weight, place.leaf, number), self.epsilon)
            for number, x in enumerate(shards)
        ]


class WidthNorm(nn.Module):
    """RMSNorm over all heads together, so over the tensor shards; its scale is cut with them."""

    def __init__(self, config: ModelConfig, heads: int, span: Span) -> None:
        super().__init__()
        self.weight = Shards((heads * config.head_size,), 0, span)
        self.width, self.epsilon = heads * config.head_size, config.norm_epsilon

    def forward(self, shards: Sequence[Tensor], span: Span, place: Place) -> list[Tensor]:
        """``[s, b, heads / T, size]`` of each local shard."""
        flat = [wide(x.flatten(2)) for x in shards]
        squares = [x.square().sum(dim=-1, keepdim=True) for x in flat]
        totals = _Total.apply(span, *squares)  # type: ignore[no-untyped-call]
        return [
            ((y * torch.rsqrt(total / self.width + self.epsilon)).to(x.dtype)
             * replicated(weight, place.leaf)).view_as(x)
            for x, y, total, weight in zip(shards, flat, totals, self.weight.local, strict=True)
        ]  # fmt: skip


class _Total(Function):
    """The tree sum over all shards, given to each; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, span: Span, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.span = span
        total = span.sum(tree_sum(parts))
        return tuple(total.clone() for _ in parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        total = ctx.span.sum(tree_sum(gradients))
        return None, *(total for _ in gradients)
