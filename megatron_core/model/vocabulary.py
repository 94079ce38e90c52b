"""Embedding and cross-entropy over a vocabulary cut into tensor shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from kernels.cross_entropy import IGNORED, cross_entropy_each, cross_entropy_sum
from kernels.precision import wide
from kernels.registry import Kernels
from megatron_core.collectives import Span, tree_sum
from megatron_core.model.linear import Shards, Split
from megatron_core.model.place import GradientLeaf, Place


def embed(tokens: Tensor, table: Split, span: Span, leaf: GradientLeaf | None) -> Tensor:
    """Rows of ``table`` for int64 ``tokens [s, b]``: the local slices ``[slice, b, hidden]``."""
    result: Tensor = _Embed.apply(tokens, span, leaf, *table.shards)  # type: ignore[no-untyped-call]
    return result


def cross_entropy(logits: Sequence[Tensor], targets: Tensor, span: Span) -> Tensor:
    """The sum of ``-log p(target)`` in nats: fp32 scalar, the same on every tensor rank.

    Args:
        logits: ``[s, b, vocabulary / T]`` of each local shard.
        targets: int64 ``[s, b]``; those equal to ``IGNORED`` do not count.
    """
    if span.shards == 1:
        return cross_entropy_sum(logits[0], targets)
    return _across(logits, targets, span).sum()


def head_loss(x: Tensor, targets: Tensor, head: Split, place: Place, kernels: Kernels) -> Tensor:
    """As :func:`cross_entropy` of the logits of ``x [s, b, hidden]``, on a grid of one shard.

    The gradients are made with the loss, so that the logits need not be kept, and those of
    weights are given to the leaf at once: what follows must be ``place.scale`` times the loss.
    """
    bias = head.bias.local[0] if isinstance(head.bias, Shards) else None
    (weight,) = head.shards
    trained = torch.is_grad_enabled()
    result: Tensor = _HeadLoss.apply(x, targets, place, kernels, trained, weight, bias)  # type: ignore[no-untyped-call]
    return result


def token_losses(logits: Sequence[Tensor], targets: Tensor, span: Span) -> Tensor:
    """As :func:`cross_entropy`, of each token: fp32 ``[s, b]``."""
    if span.shards == 1:
        return cross_entropy_each(logits[0], targets)
    return _across(logits, targets, span).view(targets.shape)


def _across(logits: Sequence[Tensor], targets: Tensor, span: Span) -> Tensor:
    """fp32 ``[s · b]``."""
    result: Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        targets.flatten(), span, *(x.flatten(0, 1) for x in logits)
    )
    return result


def _rows(tokens: Tensor, shard: int, size: int) -> tuple[Tensor, Tensor]:
    """Which tokens are of ``shard``, and their rows in it; 0 for the others."""
    row = tokens - shard * size
    inside = (row >= 0) & (row < size)
    return inside, row.where(inside, 0)


class _HeadLoss(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, targets: Tensor, place: Place, kernels: Kernels, trained: bool,
        weight: nn.Parameter, bias: nn.Parameter | None,
    ) -> Tensor:  # fmt: skip
        rows, flat = x.flatten(0, -2), targets.flatten()
        if place.counted is not None:
            rows, flat = rows[place.counted], flat[place.counted]
        leaf = place.leaf
        scale = None if not trained else place.scale if leaf is not None else 1.0
        found: list[tuple[Tensor, Tensor | None, Tensor | None]] = []

        def compute(total: Tensor | None) -> None:
            found.append(
                kernels.linear_cross_entropy(
                    rows, weight, flat, bias, scale=scale, weight_gradient=total
                )
            )

        total: Tensor | None = None
        if not trained or not weight.requires_grad:
            compute(None)
        elif leaf is not None:
            leaf.accumulate(weight, compute)
        else:
            compute(total := torch.zeros_like(wide(weight)))
        ((loss, own, of_bias),) = found
        if own is not None and place.counted is not None:
            own = own.new_zeros(targets.numel(), x.shape[-1]).index_copy_(0, place.counted, own)
        if leaf is not None and of_bias is not None and bias is not None:
            leaf.add(bias, of_bias)
            of_bias = None
        ctx.leaf, ctx.dtype = leaf, weight.dtype
        if trained:
            ctx.save_for_backward(own if own is None else own.view_as(x), total, of_bias)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        own, total, of_bias = ctx.saved_tensors
        if ctx.leaf is None:
            own, total, of_bias = (
                None if x is None else (x * gradient).to(ctx.dtype) for x in (own, total, of_bias)
            )
        return own, None, None, None, None, total, of_bias


class _Embed(Function):
    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, span: Span, leaf: GradientLeaf | None, *weights: Tensor
    ) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.span, ctx.leaf, ctx.weights = span, leaf, weights
        if span.shards == 1:
            return F.embedding(tokens, weights[0])
        parts = []
        for shard, weight in zip(span.local, weights, strict=True):
            inside, row = _rows(tokens, shard, len(weight))
            parts.append(F.embedding(row, weight) * inside[..., None])
        return span.scatter_sum(tree_sum(parts))  # exact: all but one of the parts are zero

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (tokens,) = ctx.saved_tensors
        whole = wide(ctx.span.gather(gradient))
        grads: list[Tensor | None] = []
        for shard, weight in zip(ctx.span.local, ctx.weights, strict=True):
            row, part = tokens, whole
            if ctx.span.shards > 1:
                inside, row = _rows(tokens, shard, len(weight))
                part = whole * inside[..., None]
            dense = torch.ops.aten.embedding_dense_backward(part, row, len(weight), -1, False)
            if ctx.leaf is None:
                grads.append(dense.to(weight.dtype))
            else:
                ctx.leaf.add(weight, dense)
                grads.append(None)
        return None, None, None, *grads


class _CrossEntropy(Function):
    """Softmax over all shards: the largest logit is exact, the sum of exponentials a tree."""

    @staticmethod
    def forward(ctx: Any, targets: Tensor, span: Span, *logits: Tensor) -> Tensor:
        full = [wide(x) for x in logits]
        largest = full[0].amax(dim=-1)
        for x in full[1:]:
            largest = torch.maximum(largest, x.amax(dim=-1))
        largest = span.maximum(largest)
        exponentials = tree_sum([(x - largest[:, None]).exp_().sum(dim=-1) for x in full])
        total = span.sum(exponentials)
        found = []
        for shard, x in zip(span.local, full, strict=True):
            inside, row = _rows(targets, shard, x.shape[1])
            found.append(x.gather(1, row[:, None])[:, 0] * inside)
        target = span.sum(tree_sum(found))
        ctx.save_for_backward(targets, largest, total, *logits)
        ctx.span = span
        counted = targets != IGNORED
        return (total.log() + largest - target) * counted

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        targets, largest, total, *logits = ctx.saved_tensors
        scale = gradient * (targets != IGNORED)
        grads = []
        for shard, x in zip(ctx.span.local, logits, strict=True):
            inside, row = _rows(targets, shard, x.shape[1])
            p = (wide(x) - largest[:, None]).exp_().div_(total[:, None])
            p.scatter_add_(1, row[:, None], -inside[:, None].to(p.dtype))
            grads.append(p.mul_(scale[:, None]).to(x.dtype))
        return None, None, *grads
