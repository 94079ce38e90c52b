"""One pass over the numbers each way; nothing but the inputs is kept between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from kernels.triton import NUMBERS, SUPPORT, blocks, jit, tl

__all__ = ["SUPPORT", "swiglu"]


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """As the reference; rounded once."""
    gated: Tensor = _SwiGLU.apply(gate, up)
    return gated


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        y = torch.empty_like(gate)
        _forward[(blocks(y.numel(), NUMBERS),)](gate, up, y, y.numel(), NUMBERS=NUMBERS)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        _backward[(blocks(up.numel(), NUMBERS),)](
            gate, up, gradients[0].contiguous(), of_gate, of_up, up.numel(), NUMBERS=NUMBERS
        )
        return of_gate, of_up


@jit
def _forward(gate, up, y, count, NUMBERS: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * NUMBERS + tl.arange(0, NUMBERS)
    there = place < count
    z = tl.load(gate + place, mask=there, other=0.0).to(tl.float32)
    factor = tl.load(up + place, mask=there, other=0.0).to(tl.float32)
    result = z / (1.0 + tl.exp(-z)) * factor
    tl.store(y + place, result.to(y.dtype.element_ty), mask=there)


@jit
def _backward(gate, up, upstream, of_gate, of_up, count, NUMBERS: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * NUMBERS + tl.arange(0, NUMBERS)
    there = place < count
    z = tl.load(gate + place, mask=there, other=0.0).to(tl.float32)
    factor = tl.load(up + place, mask=there, other=0.0).to(tl.float32)
    given = tl.load(upstream + place, mask=there, other=0.0).to(tl.float32)
    share = 1.0 / (1.0 + tl.exp(-z))
    slope = share * (1.0 + z * (1.0 - share))
    tl.store(of_up + place, (given * z * share).to(of_up.dtype.element_ty), mask=there)
    result = given * factor * slope
    tl.store(of_gate + place, result.to(of_gate.dtype.element_ty), mask=there)
