"""Linear layers over tensor shards.

A layer on a grid of ``T`` tensor shards is ``T`` weight shards, each multiplied alone, so every
product has the shape that the grid defines. Between layers the sequence is cut into ``T`` slices,
and a rank holds those that go with its shards (Korthikanti et al., 2022): `columns` gathers the
slices, `rows` adds the shards' partial results by the tree and leaves each rank its slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from kernels.linear import add_weight_gradient, input_gradient, linear
from megatron_core.collectives import Span, tree_sum
from megatron_core.model.place import GradientLeaf


class Split(nn.Module):
    """A matrix cut into the tensor shards of the grid, of which this rank holds some.

    Parameters are named by shard: ``weight.0``, ``weight.1``, …
    """

    def __init__(
        self, rows: int, columns: int, axis: int, span: Span, *, expert: bool = False
    ) -> None:
        """``axis`` is the dimension that is cut; ``expert`` marks a weight of one expert."""
        super().__init__()
        self.shape, self.axis, self.span, self.expert = (rows, columns), axis, span, expert
        shard = [rows, columns]
        shard[axis] //= span.shards
        self.weight = nn.ParameterDict(
            {str(number): nn.Parameter(torch.empty(shard)) for number in span.local}
        )

    @property
    def shards(self) -> list[nn.Parameter]:
        """The local shards, in order."""
        return list(self.weight.values())


def columns(
    x: Tensor, layers: Sequence[Split], span: Span, leaf: GradientLeaf | None
) -> Iterator[tuple[Tensor, ...]]:
    """Layers cut by output features on one input: the outputs of each local shard in turn.

    Args:
        x: The local slices ``[slice, b, in]``.
        layers: Sharing the input; ``Split`` along axis 0.

    Returns:
        For each local shard one output ``[s, b, out / T]`` per layer.
    """
    weights = [layer.shards[i] for i in range(len(span.local)) for layer in layers]
    outputs = _Columns.apply(x, span, leaf, len(layers), *weights)  # type: ignore[no-untyped-call]
    return (outputs[i : i + len(layers)] for i in range(0, len(outputs), len(layers)))


def rows(inputs: Sequence[Tensor], layer: Split, span: Span, leaf: GradientLeaf | None) -> Tensor:
    """A layer cut by input features: ``[s, b, in / T]`` of each local shard to local slices.

    Args:
        inputs: One per local shard.
        layer: ``Split`` along axis 1.

    Returns:
        ``[slice, b, out]`` in the dtype of the inputs; the partial results are fp32.
    """
    result: Tensor = _Rows.apply(span, leaf, len(inputs), *inputs, *layer.shards)  # type: ignore[no-untyped-call]
    return result


def collect(x: Tensor, span: Span) -> Tensor:
    """The local slices ``[slice, …]`` gathered for what every rank computes alike."""
    result: Tensor = _Collect.apply(x, span)  # type: ignore[no-untyped-call]
    return result


class _Columns(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, span: Span, leaf: GradientLeaf | None, layers: int, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x)
        ctx.span, ctx.leaf, ctx.layers, ctx.weights = span, leaf, layers, weights
        whole = span.gather(x)
        return tuple(linear(whole, weight) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        n, weights = ctx.layers, ctx.weights
        whole = ctx.span.gather(x)
        gradients = tuple(g.contiguous() for g in gradients)  # once for both products
        parts = [
            input_gradient(gradients[i : i + n], weights[i : i + n])
            for i in range(0, len(weights), n)
        ]
        gradient = ctx.span.scatter_sum(tree_sum(parts)).to(x.dtype)
        grads = [
            weight_gradient(ctx.leaf, weight, g, whole)
            for weight, g in zip(weights, gradients, strict=True)
        ]
        return gradient, None, None, None, *grads


class _Rows(Function):
    @staticmethod
    def forward(
        ctx: Any, span: Span, leaf: GradientLeaf | None, count: int, *tensors: Tensor
    ) -> Tensor:
        inputs, weights = tensors[:count], tensors[count:]
        ctx.save_for_backward(*inputs)
        ctx.span, ctx.leaf, ctx.weights = span, leaf, weights
        partial = torch.float32 if span.shards > 1 else inputs[0].dtype
        parts = [linear(x, w, partial) for x, w in zip(inputs, weights, strict=True)]
        return span.scatter_sum(tree_sum(parts)).to(inputs[0].dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        whole = ctx.span.gather(gradient.contiguous())
        dtype = gradient.dtype
        inputs = [input_gradient([whole], [w]).to(dtype) for w in ctx.weights]
        grads = [
            weight_gradient(ctx.leaf, weight, whole, x)
            for weight, x in zip(ctx.weights, ctx.saved_tensors, strict=True)
        ]
        return None, None, None, *inputs, *grads


class _Collect(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, span: Span) -> Tensor:
        ctx.span = span
        return span.gather(x).view_as(x) if span.ranks == 1 else span.gather(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient.chunk(ctx.span.ranks)[ctx.span.rank], None


def weight_gradient(
    leaf: GradientLeaf | None, weight: Tensor, gradient: Tensor, x: Tensor
) -> Tensor | None:
    """Give a linear layer's weight gradient to ``leaf``; without one, return it for autograd."""
    if leaf is not None:
        leaf.linear(weight, gradient, x)  # type: ignore[arg-type]
        return None
    total = torch.zeros_like(weight, dtype=torch.float32)
    add_weight_gradient(total, gradient, x)
    return total.to(weight.dtype)


def replicated(weight: nn.Parameter, leaf: GradientLeaf | None, slice: int = 0) -> Tensor:
    """``weight`` for use by any operation, its gradient given to ``leaf`` when there is one."""
    if leaf is None:
        return weight
    result: Tensor = _Replicated.apply(weight, leaf, slice)  # type: ignore[no-untyped-call]
    return result


class _Replicated(Function):
    @staticmethod
    def forward(ctx: Any, weight: nn.Parameter, leaf: GradientLeaf, slice: int) -> Tensor:
        ctx.weight, ctx.leaf, ctx.slice = weight, leaf, slice
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        ctx.leaf.add(ctx.weight, gradient, ctx.slice)
        return None, None, None
