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

from kernels.linear import linear
from kernels.precision import wide, wide_dtype
from kernels.registry import DEFINITIONS, Kernels
from megatron_core.collectives import Span, tree_sum
from megatron_core.model.place import GradientLeaf


class Shards(nn.ParameterDict):
    """A tensor cut into the tensor shards of the grid, of which this rank holds some.

    Parameters are named by shard: ``weight.0``, ``weight.1``, …
    """

    def __init__(
        self, shape: tuple[int, ...], axis: int, span: Span, *,
        expert: bool = False, fp32: bool = False,
    ) -> None:  # fmt: skip
        """
        Args:
            axis: The dimension that is cut.
            expert: A tensor of one expert.
            fp32: Kept in fp32 whatever the model computes in.
        """
        shard = list(shape)
        shard[axis] //= span.shards
        super().__init__({str(n): nn.Parameter(torch.empty(shard)) for n in span.local})
        self.shape, self.axis, self.span = shape, axis, span
        self.expert, self.fp32 = expert, fp32

    @property
    def local(self) -> list[nn.Parameter]:
        """The local shards, in order."""
        return list(self.values())


class Split(nn.Module):
    """A matrix cut into the tensor shards of the grid, with or without a bias.

    The bias of a layer cut by output features is cut with it; that of a layer cut by input
    features is added to the sum of its partial results, and whole.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        axis: int,
        span: Span,
        *,
        expert: bool = False,
        bias: bool = False,
    ) -> None:
        """``axis`` is the dimension that is cut; ``expert`` marks a weight of one expert."""
        super().__init__()
        self.weight = Shards((rows, columns), axis, span, expert=expert)
        self.bias: Shards | nn.Parameter | None = None
        if bias and axis == 0:
            self.bias = Shards((rows,), 0, span, expert=expert)
        elif bias:
            self.bias = nn.Parameter(torch.empty(rows))

    @property
    def shards(self) -> list[nn.Parameter]:
        """The local shards of the matrix, in order."""
        return self.weight.local


def columns(
    x: Tensor, layers: Sequence[Split], span: Span, leaf: GradientLeaf | None,
    kernels: Kernels = DEFINITIONS,
) -> Iterator[tuple[Tensor, ...]]:  # fmt: skip
    """Layers cut by output features on one input: the outputs of each local shard in turn.

    Args:
        x: The local slices ``[slice, b, in]``.
        layers: Sharing the input; ``Split`` along axis 0.

    Returns:
        For each local shard one output ``[s, b, out / T]`` per layer.
    """
    pairs = [(layer, i) for i in range(len(span.local)) for layer in layers]
    weights = [layer.shards[i] for layer, i in pairs]
    outputs = _Columns.apply(x, span, leaf, kernels, len(layers), *weights)  # type: ignore[no-untyped-call]
    outputs = [
        y + replicated(layer.bias.local[i], leaf) if isinstance(layer.bias, Shards) else y
        for y, (layer, i) in zip(outputs, pairs, strict=True)
    ]
    return (tuple(outputs[i : i + len(layers)]) for i in range(0, len(outputs), len(layers)))


def rows(
    inputs: Sequence[Tensor], layer: Split, span: Span, leaf: GradientLeaf | None,
    kernels: Kernels = DEFINITIONS,
) -> Tensor:  # fmt: skip
    """A layer cut by input features: ``[s, b, in / T]`` of each local shard to local slices.

    Args:
        inputs: One per local shard.
        layer: ``Split`` along axis 1.

    Returns:
        ``[slice, b, out]`` in the dtype of the inputs; the partial results are fp32.
    """
    result: Tensor = _Rows.apply(span, leaf, kernels, len(inputs), *inputs, *layer.shards)  # type: ignore[no-untyped-call]
    if not isinstance(layer.bias, nn.Parameter):
        return result
    parts = by_slice(result, len(span.local))
    return joined([y + replicated(layer.bias, leaf, number) for number, y in enumerate(parts)])


def by_slice(x: Tensor, slices: int) -> Sequence[Tensor]:
    """The local sequence slices of ``x [slices · s, …]``, for what gives a gradient for each."""
    return x.chunk(slices) if slices > 1 else [x]


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The opposite of :func:`by_slice`."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def whole(
    x: Tensor, weight: nn.Parameter, leaf: GradientLeaf | None, slices: int, dtype: torch.dtype
) -> list[Tensor]:
    """A layer that is not cut, on each of the local slices ``[slices · s, b, in]``.

    Returns:
        ``[s, b, out]`` in ``dtype`` of each slice. The weight's gradient is fp32 also where the
        weight is not.
    """
    return [
        _Whole.apply(part, weight, leaf, number, dtype)  # type: ignore[no-untyped-call]
        for number, part in enumerate(by_slice(x, slices))
    ]


def collect(x: Tensor, span: Span) -> Tensor:
    """The local slices ``[slice, …]`` gathered for what every rank computes alike."""
    result: Tensor = _Collect.apply(x, span)  # type: ignore[no-untyped-call]
    return result


class _Columns(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, span: Span, leaf: GradientLeaf | None, kernels: Kernels, layers: int,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        ctx.save_for_backward(x)
        ctx.span, ctx.leaf, ctx.kernels = span, leaf, kernels
        ctx.layers, ctx.weights = layers, weights
        whole = span.gather(x)
        return tuple(kernels.linear(whole, weight) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        n, weights = ctx.layers, ctx.weights
        whole = ctx.span.gather(x)
        gradients = tuple(g.contiguous() for g in gradients)  # once for both products
        parts = [
            ctx.kernels.input_gradient(gradients[i : i + n], weights[i : i + n])
            for i in range(0, len(weights), n)
        ]
        gradient = ctx.span.scatter_sum(tree_sum(parts)).to(x.dtype)
        grads = [
            weight_gradient(ctx.leaf, weight, g, whole, ctx.kernels)
            for weight, g in zip(weights, gradients, strict=True)
        ]
        return gradient, None, None, None, None, *grads


class _Rows(Function):
    @staticmethod
    def forward(
        ctx: Any, span: Span, leaf: GradientLeaf | None, kernels: Kernels, count: int,
        *tensors: Tensor,
    ) -> Tensor:  # fmt: skip
        inputs, weights = tensors[:count], tensors[count:]
        ctx.save_for_backward(*inputs)
        ctx.span, ctx.leaf, ctx.kernels, ctx.weights = span, leaf, kernels, weights
        dtype = inputs[0].dtype
        partial = wide_dtype(dtype) if span.shards > 1 else dtype
        parts = [kernels.linear(x, w, partial) for x, w in zip(inputs, weights, strict=True)]
        return span.scatter_sum(tree_sum(parts)).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        whole = ctx.span.gather(gradient.contiguous())
        dtype = gradient.dtype
        inputs = [ctx.kernels.input_gradient([whole], [w]).to(dtype) for w in ctx.weights]
        grads = [
            weight_gradient(ctx.leaf, weight, whole, x, ctx.kernels)
            for weight, x in zip(ctx.weights, ctx.saved_tensors, strict=True)
        ]
        return None, None, None, None, *inputs, *grads


class _Whole(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: nn.Parameter, leaf: GradientLeaf | None, slice: int,
        dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x)
        ctx.weight, ctx.leaf, ctx.slice = weight, leaf, slice
        return linear(x, weight, dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        flat = wide(gradient.flatten(0, -2))
        own = (flat @ wide(ctx.weight)).to(x.dtype).view_as(x)
        weight = flat.T @ wide(x.flatten(0, -2))
        if ctx.leaf is None:
            return own, weight.to(ctx.weight.dtype), None, None, None
        ctx.leaf.add(ctx.weight, weight, ctx.slice)
        return own, None, None, None, None


class _Collect(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, span: Span) -> Tensor:
        ctx.span = span
        return span.gather(x).view_as(x) if span.ranks == 1 else span.gather(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient.chunk(ctx.span.ranks)[ctx.span.rank], None


def weight_gradient(
    leaf: GradientLeaf | None, weight: Tensor, gradient: Tensor, x: Tensor, kernels: Kernels
) -> Tensor | None:
    """Give a linear layer's weight gradient to ``leaf``; without one, return it for autograd."""
    if leaf is not None:
        leaf.linear(weight, gradient, x, kernels)  # type: ignore[arg-type]
        return None
    total = torch.zeros_like(wide(weight))
    kernels.add_weight_gradient(total, gradient, x)
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
