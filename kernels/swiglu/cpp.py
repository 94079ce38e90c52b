"""One pass over memory each way: see ``swiglu.cpp``."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import native
from kernels.support import Support
from kernels.swiglu import reference

SUPPORT = Support(devices=("cpu",), dtypes=(torch.float32,), automatic=("cpu",), lacks=native.lacks)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """As the reference, which computes what is not fp32."""
    if gate.dtype != torch.float32 or up.dtype != torch.float32:
        return reference.swiglu(gate, up)
    result: Tensor = _SwiGLU.apply(gate, up)  # type: ignore[no-untyped-call]
    return result


class _SwiGLU(torch.autograd.Function):
    """Keeps its inputs alone."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        result = torch.empty_like(gate)
        _library().swiglu_forward(*native.extent(gate), native.addresses(gate, up, result))
        ctx.save_for_backward(gate, up)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        given = given.contiguous()
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        _library().swiglu_backward(
            *native.extent(gate), native.addresses(gate, up, given, of_gate, of_up)
        )
        return of_gate, of_up


def _library() -> ctypes.CDLL:
    return native.built(Path(__file__).with_name("swiglu.cpp"))
