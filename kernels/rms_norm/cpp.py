"""One pass over memory each way: see ``rms_norm.cpp``."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import native
from kernels.rms_norm import reference
from kernels.support import Support

SUPPORT = Support(devices=("cpu",), dtypes=(torch.float32,), automatic=("cpu",), lacks=native.lacks)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """As the reference, which computes what is not fp32."""
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return reference.rms_norm(x, weight, epsilon)
    result: Tensor = _RMSNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    return result


class _RMSNorm(torch.autograd.Function):
    """Keeps the input and each row's scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        result, scale = torch.empty_like(x), x.new_empty(x.shape[:-1])
        _library().rms_norm_forward(
            *native.extent(x), ctypes.c_float(epsilon), native.addresses(x, weight, result, scale)
        )
        ctx.save_for_backward(x, weight, scale)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        given = given.contiguous()
        of_x, of_weight = torch.empty_like(x), torch.empty_like(weight)
        _library().rms_norm_backward(
            *native.extent(x), native.addresses(x, weight, scale, given, of_x, of_weight)
        )
        return of_x, of_weight, None


def _library() -> ctypes.CDLL:
    return native.built(Path(__file__).with_name("rms_norm.cpp"))
