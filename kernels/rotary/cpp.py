"""One pass over memory each way: see ``rotary.cpp``."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import native
from kernels.rotary import reference
from kernels.support import Support

SUPPORT = Support(devices=("cpu",), dtypes=(torch.float32,), automatic=("cpu",), lacks=native.lacks)


def apply_rotary(x: Tensor, table: Tensor) -> Tensor:
    """As the reference, which computes what is not fp32."""
    if x.dtype != torch.float32 or table.dtype != torch.float32 or table.requires_grad:
        return reference.apply_rotary(x, table)
    rotated: Tensor = _Rotary.apply(x, table)  # type: ignore[no-untyped-call]
    return rotated


class _Rotary(torch.autograd.Function):
    """The gradient is turned the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(table)
        return _rotate(x, table, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, None]:
        (table,) = ctx.saved_tensors
        return _rotate(given, table, -1.0), None


def _rotate(x: Tensor, table: Tensor, turn: float) -> Tensor:
    length, batch, heads, size = x.shape
    x, table = (t if t.stride(-1) == 1 else t.contiguous() for t in (x, table))
    each = table[:, :, None] if table.ndim == 3 else table
    each = each.expand(2, length, batch, size)[:, :, :, None]
    result = x.new_empty(x.shape)
    _library().rotate(
        *map(ctypes.c_long, (length, batch, heads, size, torch.get_num_threads())),
        ctypes.c_float(turn),
        native.strided([x]),
        native.strided(each.unbind()),
        ctypes.c_void_p(result.data_ptr()),
    )
    return result


def _library() -> ctypes.CDLL:
    return native.built(Path(__file__).with_name("rotary.cpp"))
