"""Attention in tiles that stay in a CPU's first caches: see ``attention.cpp``."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import native
from kernels.attention import reference
from kernels.support import Support

SUPPORT = Support(devices=("cpu",), dtypes=(torch.float32,), automatic=("cpu",), lacks=native.lacks)

_SHORT = 8  # queries, below which tiles do not pay


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    window: int | None = None,
    seen: Tensor | None = None,
) -> Tensor:
    """As the reference, which computes what is not fp32 and the few queries of a generation."""
    length, keys = query.shape[0], key.shape[0]
    if query.dtype != torch.float32 or length < _SHORT or (causal and length > keys):
        return reference.attention(query, key, value, causal=causal, window=window, seen=seen)
    mixed: Tensor = _Attention.apply(query, key, value, causal, window, seen)  # type: ignore[no-untyped-call]
    return mixed


class _Attention(torch.autograd.Function):
    """The backward pass computes the shares again, from the log of each query's sum."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        causal: bool,
        window: int | None,
        seen: Tensor | None,
    ) -> Tensor:
        length, batch, heads, _ = query.shape
        mixed = torch.empty(query.shape)
        spread = torch.empty(batch, heads, length)
        _library().attention_forward(
            ctypes.byref(_problem(query, key, causal, window, seen)),
            native.strided([query, key, value, mixed]),
            ctypes.c_void_p(native.address(spread)),
        )
        ctx.save_for_backward(query, key, value, mixed, spread, seen)
        ctx.causal, ctx.window = causal, window
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mixed, spread, seen = ctx.saved_tensors
        gradients = [torch.empty(x.shape) for x in (query, key, value)]
        _library().attention_backward(
            ctypes.byref(_problem(query, key, ctx.causal, ctx.window, seen)),
            native.strided([query, key, value, mixed, given, *gradients]),
            ctypes.c_void_p(native.address(spread)),
        )
        return (*gradients, None, None, None)


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("length", "keys", "batch", "heads", "kv_heads")),
        *((name, ctypes.c_long) for name in ("size", "causal", "window", "threads")),
        ("seen", ctypes.c_void_p),
        ("seen_strides", ctypes.c_long * 3),
    )


def _problem(
    query: Tensor, key: Tensor, causal: bool, window: int | None, seen: Tensor | None
) -> _Problem:
    length, batch, heads, size = query.shape
    if seen is not None:
        # It alone counts.
        causal, window = False, None
        seen = seen.expand(batch, length, key.shape[0])
    strides = (ctypes.c_long * 3)(*(seen.stride() if seen is not None else (0, 0, 0)))
    return _Problem(
        length, key.shape[0], batch, heads, key.shape[2], size, causal,
        window if causal and window else 0, torch.get_num_threads(), native.address(seen), strides,
    )  # fmt: skip


def _library() -> ctypes.CDLL:
    return native.built(Path(__file__).with_name("attention.cpp"), native.FUSED)
