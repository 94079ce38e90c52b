"""One pass over the numbers each way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from kernels.triton import NUMBERS, SUPPORT, blocks, jit, tl

__all__ = ["SUPPORT", "gelu"]


def gelu(x: Tensor, *, tanh: bool) -> Tensor:
    """As the reference."""
    y: Tensor = _GELU.apply(x, tanh)
    return y


class _GELU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tanh: bool) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        ctx.tanh = tanh
        y = torch.empty_like(x)
        _forward[(blocks(x.numel(), NUMBERS),)](x, y, x.numel(), TANH=tanh, NUMBERS=NUMBERS)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        of_x = torch.empty_like(x)
        _backward[(blocks(x.numel(), NUMBERS),)](
            x, gradients[0].contiguous(), of_x, x.numel(), TANH=ctx.tanh, NUMBERS=NUMBERS
        )
        return of_x, None


@jit
def _share(z, TANH: tl.constexpr):
    """What ``z`` is multiplied by, and its derivative."""
    if TANH:
        inner = 0.7978845608028654 * (z + 0.044715 * z * z * z)  # sqrt(2 / pi)
        # (1 + tanh(y)) / 2 is the logistic function of 2 y, which overflows to 0 or 1.
        share = 1.0 / (1.0 + tl.exp(-2.0 * inner))
        slope = 2.0 * share * (1.0 - share) * 0.7978845608028654 * (1.0 + 0.134145 * z * z)
    else:
        share = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))
        slope = 0.3989422804014327 * tl.exp(-0.5 * z * z)  # 1 / sqrt(2 pi)
    return share, slope


@jit
def _forward(x, y, count, TANH: tl.constexpr, NUMBERS: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * NUMBERS + tl.arange(0, NUMBERS)
    z = tl.load(x + place, mask=place < count, other=0.0).to(tl.float32)
    share, _ = _share(z, TANH)
    tl.store(y + place, (z * share).to(y.dtype.element_ty), mask=place < count)


@jit
def _backward(x, upstream, of_x, count, TANH: tl.constexpr, NUMBERS: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * NUMBERS + tl.arange(0, NUMBERS)
    z = tl.load(x + place, mask=place < count, other=0.0).to(tl.float32)
    given = tl.load(upstream + place, mask=place < count, other=0.0).to(tl.float32)
    share, slope = _share(z, TANH)
    result = given * (share + z * slope)
    tl.store(of_x + place, result.to(of_x.dtype.element_ty), mask=place < count)
