"""One pass over the rows each way, with fp32 sums of fixed order; of RMSNorm too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from kernels.triton import SUPPORT, blocks, jit, rows_of, tile, tl, warps

__all__ = ["SUPPORT", "layer_norm", "norm"]

# At most so many tiles of rows give one partial sum of the weight gradients, added in order.
_TILES = 16


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """As the reference; rounded once, at the end."""
    return norm(x, weight, bias, epsilon)


def norm(x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
    """LayerNorm; RMSNorm if ``bias`` is None."""
    normed: Tensor = _Norm.apply(x, weight, bias, epsilon)
    return normed


class _Norm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.epsilon, ctx.of_bias = epsilon, None if bias is None else bias.dtype
        rows, weight = rows_of(x), weight.contiguous()
        count, width = rows.shape
        dtype = torch.promote_types(x.dtype, weight.dtype)
        y = torch.empty(x.shape, dtype=dtype, device=x.device)
        height, padded = tile(width)
        _forward[(blocks(count, height),)](
            rows, weight, weight if bias is None else bias.contiguous(), y,
            count, width, rows.stride(0), epsilon,
            CENTERED=bias is not None, HEIGHT=height, PADDED=padded,
            num_warps=warps(height * padded),
        )  # fmt: skip
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        rows, upstream = rows_of(x), rows_of(gradients[0])
        count, width = rows.shape
        height, padded = tile(width)
        tiles = min(_TILES, blocks(count, height))
        programs, centered = blocks(count, height * tiles), ctx.of_bias is not None
        of_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        parts = torch.empty(1 + centered, programs, width, dtype=torch.float32, device=x.device)
        _backward[(programs,)](
            rows, weight.contiguous(), upstream, of_x, parts,
            count, width, rows.stride(0), upstream.stride(0), ctx.epsilon,
            CENTERED=centered, HEIGHT=height, PADDED=padded, TILES=tiles,
            num_warps=warps(height * padded),
        )  # fmt: skip
        totals = parts.sum(dim=1)
        of_bias = totals[1].to(ctx.of_bias) if centered else None
        return of_x, totals[0].to(weight.dtype), of_bias, None


@jit
def _normed(full, there, width, epsilon, CENTERED: tl.constexpr):
    """The rows of mean square 1, and one over their deviation."""
    if CENTERED:
        mean = tl.sum(full, axis=1) / width
        full = tl.where(there, full - mean[:, None], 0.0)
    scale = (1.0 / tl.sqrt(tl.sum(full * full, axis=1) / width + epsilon))[:, None]
    return full * scale, scale


@jit
def _forward(
    x, weight, bias, y, count, width, stride, epsilon,
    CENTERED: tl.constexpr, HEIGHT: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * HEIGHT + tl.arange(0, HEIGHT)[:, None]
    column = tl.arange(0, PADDED)[None, :]
    there = (row < count) & (column < width)
    full = tl.load(x + row * stride + column, mask=there, other=0.0).to(tl.float32)
    normed, _ = _normed(full, there, width, epsilon, CENTERED)
    result = normed * tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    if CENTERED:
        result += tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)
    tl.store(y + row * width + column, result.to(y.dtype.element_ty), mask=there)


@jit
def _backward(
    x, weight, upstream, of_x, parts, count, width, stride, upstream_stride, epsilon,
    CENTERED: tl.constexpr, HEIGHT: tl.constexpr, PADDED: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, PADDED)[None, :]
    factor = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    of_weight = tl.zeros((PADDED,), dtype=tl.float32)
    of_bias = tl.zeros((PADDED,), dtype=tl.float32)
    for number in range(TILES):
        row = (program * TILES + number) * HEIGHT + tl.arange(0, HEIGHT)[:, None]
        there = (row < count) & (column < width)
        full = tl.load(x + row * stride + column, mask=there, other=0.0).to(tl.float32)
        normed, scale = _normed(full, there, width, epsilon, CENTERED)
        given = tl.load(upstream + row * upstream_stride + column, mask=there, other=0.0)
        given = given.to(tl.float32)
        scaled = given * factor
        result = scaled - normed * (tl.sum(scaled * normed, axis=1) / width)[:, None]
        if CENTERED:
            result -= (tl.sum(scaled, axis=1) / width)[:, None]
            of_bias += tl.sum(given, axis=0)
        of_weight += tl.sum(given * normed, axis=0)
        result = (result * scale).to(of_x.dtype.element_ty)
        tl.store(of_x + row * width + column, result, mask=there)
    place = tl.arange(0, PADDED)
    tl.store(parts + program * width + place, of_weight, mask=place < width)
    if CENTERED:
        after = tl.num_programs(0).to(tl.int64) * width
        tl.store(parts + after + program * width + place, of_bias, mask=place < width)
