"""One pass over memory each way: see ``layer_norm.cpp``."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import native
from kernels.layer_norm import reference
from kernels.support import Support

SUPPORT = Support(devices=("cpu",), dtypes=(torch.float32,), automatic=("cpu",), lacks=native.lacks)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """As the reference, which computes what is not fp32."""
    if not all(t.dtype == torch.float32 for t in (x, weight, bias)):
        return reference.layer_norm(x, weight, bias, epsilon)
    result: Tensor = _LayerNorm.apply(x, weight, bias, epsilon)  # type: ignore[no-untyped-call]
    return result


class _LayerNorm(torch.autograd.Function):
    """Keeps the input, and each row's mean and scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
        result, mean, scale = torch.empty_like(x), *x.new_empty(2, *x.shape[:-1])
        _library().layer_norm_forward(
            *native.extent(x),
            ctypes.c_float(epsilon),
            native.addresses(x, weight, bias, result, mean, scale),
        )
        ctx.save_for_backward(x, weight, mean, scale)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale = ctx.saved_tensors
        given = given.contiguous()
        of_x, both = torch.empty_like(x), weight.new_empty(2, len(weight))
        _library().layer_norm_backward(
            *native.extent(x), native.addresses(x, weight, mean, scale, given, of_x, both)
        )
        return of_x, both[0], both[1], None


def _library() -> ctypes.CDLL:
    return native.built(Path(__file__).with_name("layer_norm.cpp"))
