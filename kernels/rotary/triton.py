"""One pass over the numbers; the way back is a rotation by the negative angle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from kernels.triton import SUPPORT, blocks, jit, rows_of, tile, tl, warps

__all__ = ["SUPPORT", "apply_rotary"]


def apply_rotary(x: Tensor, table: Tensor) -> Tensor:
    """As the reference; rounded once. ``table`` has no gradient."""
    rotated: Tensor = _Rotary.apply(x, table)
    return rotated


class _Rotary(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(table)
        return _rotated(x, table, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (table,) = ctx.saved_tensors
        return _rotated(gradients[0], table, -1.0), None


def _rotated(x: Tensor, table: Tensor, sign: float) -> Tensor:
    """``x`` turned by its angles times ``sign``, which is 1 or -1."""
    rows, table = rows_of(x), table.contiguous()
    _, batch, heads, size = x.shape
    # Rows of x that have one row of the table.
    alike = heads if table.ndim == 4 else batch * heads
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    height, padded = tile(size // 2)
    _rotate[(blocks(len(rows), height),)](
        rows, table[0], table[1], y, len(rows), size // 2, rows.stride(0), alike, sign,
        HEIGHT=height, PADDED=padded, num_warps=warps(height * padded),
    )  # fmt: skip
    return y


@jit
def _rotate(
    x, cosines, sines, y, count, half, stride, alike, sign,
    HEIGHT: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * HEIGHT + tl.arange(0, HEIGHT)[:, None]
    column = tl.arange(0, PADDED)[None, :]
    there = (row < count) & (column < half)
    # Both halves of the table are the same angles.
    angle = row // alike * 2 * half + column
    cosine = tl.load(cosines + angle, mask=there, other=0.0).to(tl.float32)
    sine = tl.load(sines + angle, mask=there, other=0.0).to(tl.float32) * sign
    first = tl.load(x + row * stride + column, mask=there, other=0.0).to(tl.float32)
    second = tl.load(x + row * stride + half + column, mask=there, other=0.0).to(tl.float32)
    dtype = y.dtype.element_ty
    place = y + row * 2 * half + column
    tl.store(place, (first * cosine - second * sine).to(dtype), mask=there)
    tl.store(place + half, (second * cosine + first * sine).to(dtype), mask=there)
