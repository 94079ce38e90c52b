"""A stand-in for Transformer Engine in plain torch: what is used of it, as strict as it is.

It checks what the library's documentation asks of its callers, computes in float64 or, for 8-bit
numbers, of numbers that really were of 8 bits.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import kernels.te

ALIGNMENT = 64  # what a CPU's allocator gives
WIDEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}
NAMES = (
    "transformer_engine", "transformer_engine.pytorch", "transformer_engine.pytorch.constants",
    "transformer_engine.pytorch.cpp_extensions", "transformer_engine_torch",
)  # fmt: skip


@dataclass
class Scaled:
    """A matrix of 8-bit numbers: its values along rows and along columns, if it has them."""

    dtype: torch.dtype
    rowwise: Tensor | None
    columnwise: Tensor | None


@dataclass
class Float8CurrentScalingQuantizer:
    """One scale for all."""

    fp8_dtype: torch.dtype
    device: torch.device
    rowwise: bool = field(default=True, kw_only=True)
    columnwise: bool = field(default=True, kw_only=True)
    internal: bool = field(default=False, init=False)

    def __call__(self, x: Tensor) -> Scaled:
        assert self.rowwise, "only columnwise is not supported"
        assert all(n % 16 == 0 for n in x.shape)
        values = _rounded(x, x.abs().max(), self.fp8_dtype)
        return Scaled(self.fp8_dtype, values, values if self.columnwise else None)


@dataclass
class MXFP8Quantizer:
    """A scale, a power of two, for 32 numbers along what is summed."""

    fp8_dtype: torch.dtype
    rowwise: bool = field(default=True, kw_only=True)
    columnwise: bool = field(default=True, kw_only=True)
    internal: bool = field(default=False, init=False)

    def __call__(self, x: Tensor) -> Scaled:
        assert all(n % 32 == 0 for n in x.shape)
        return Scaled(
            self.fp8_dtype,
            self._blocks(x) if self.rowwise else None,
            self._blocks(x.T).T if self.columnwise else None,
        )

    def _blocks(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(1, (-1, 32))
        largest = blocks.abs().amax(dim=-1, keepdim=True).double()
        power = 2.0 ** torch.ceil(torch.log2(largest / WIDEST[self.fp8_dtype]))
        return _rounded(blocks, power * WIDEST[self.fp8_dtype], self.fp8_dtype).flatten(1)


def _rounded(x: Tensor, largest: Tensor, dtype: torch.dtype) -> Tensor:
    scale = largest.double() / WIDEST[dtype]
    scale = scale.where(scale > 0, 1.0)
    return (x.double() / scale).float().to(dtype).double() * scale


def general_gemm(
    A: Any,
    B: Any,
    out_dtype: torch.dtype | None = None,
    *,
    accumulate: bool = False,
    layout: str = "TN",
    out: Tensor | None = None,
    use_split_accumulator: bool = False,
) -> tuple[Tensor | None, ...]:
    kinds = {x.dtype for x in (A, B)}
    assert kinds <= {torch.bfloat16, torch.float16} or kinds <= set(WIDEST)
    assert kinds != {torch.float8_e5m2}, "two of five bits of exponent cannot be multiplied"
    assert use_split_accumulator, "sums of 8-bit numbers would not be fp32"
    a, b = _values(A, layout[0] == "T"), _values(B, layout[1] == "N")
    product = (b.T if layout[1] == "T" else b) @ (a.T if layout[0] == "T" else a)
    if out is None:
        assert not accumulate
        return product.to(out_dtype), None, None, None
    assert out.is_contiguous()
    assert out.shape == product.shape
    assert out_dtype in (None, out.dtype)
    assert aligned(out)
    out.copy_(product + out.double() if accumulate else product)
    return out, None, None, None


def _values(x: Tensor | Scaled, rowwise: bool) -> Tensor:
    if isinstance(x, Scaled):
        found = x.rowwise if rowwise else x.columnwise
        assert found is not None, "not quantized along what is summed"
        return found
    assert x.ndim == 2
    assert x.is_contiguous()
    assert aligned(x)
    return x.double()


def aligned(*tensors: Tensor) -> bool:
    return all(x.data_ptr() % ALIGNMENT == 0 for x in tensors)


def rmsnorm_fwd(
    x: Tensor, weight: Tensor, eps: float, out: None, quantizer: None, dtype: torch.dtype,
    sm_margin: int, zero_centered: bool,
) -> tuple[Tensor, None, Tensor]:  # fmt: skip
    assert x.ndim == 2
    assert x.is_contiguous()
    assert aligned(x, weight)
    scale = torch.rsqrt(x.double().square().mean(-1) + eps).float()
    return (x.double() * scale[:, None] * weight.double()).to(dtype), None, scale


def rmsnorm_bwd(
    dz: Tensor, x: Tensor, scale: Tensor, weight: Tensor, sm_margin: int, zero_centered: bool
) -> tuple[Tensor, Tensor]:
    assert dz.shape == x.shape
    assert dz.is_contiguous()
    normed = x.double() * scale[:, None]
    given = dz.double() * weight.double()
    own = (given - normed * (given * normed).mean(-1, keepdim=True)) * scale[:, None]
    return own.to(x.dtype), (dz.double() * normed).sum(0).to(weight.dtype)


def layernorm_fwd(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: None, quantizer: None,
    dtype: torch.dtype, sm_margin: int, zero_centered: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    assert aligned(x, weight, bias)
    mean = x.double().mean(-1)
    scale = torch.rsqrt(x.double().var(-1, correction=0) + eps)
    normed = (x.double() - mean[:, None]) * scale[:, None]
    return (normed * weight.double() + bias.double()).to(dtype), mean.float(), scale.float()


def layernorm_bwd(
    dz: Tensor, x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, sm_margin: int,
    zero_centered: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    normed = (x.double() - mean[:, None]) * scale[:, None]
    given = dz.double() * weight.double()
    along = normed * (given * normed).mean(-1, keepdim=True)
    own = (given - given.mean(-1, keepdim=True) - along) * scale[:, None]
    of_weight, of_bias = (dz.double() * normed).sum(0), dz.double().sum(0)
    return own.to(x.dtype), of_weight.to(weight.dtype), of_bias.to(weight.dtype)


class DotProductAttention:
    """Scores are held in memory; masks are as the library describes them."""

    def __init__(
        self, num_attention_heads: int, kv_channels: int, *, num_gqa_groups: int, qkv_format: str,
        attn_mask_type: str, window_size: tuple[int, int] | None,
    ) -> None:  # fmt: skip
        assert qkv_format == "sbhd"
        assert window_size is None or "causal" in attn_mask_type
        self.heads, self.size, self.groups = num_attention_heads, kv_channels, num_gqa_groups
        self.mask, self.window = attn_mask_type, window_size

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, *, attention_mask: Tensor | None
    ) -> Tensor:
        assert query.shape[2:] == (self.heads, self.size)
        assert key.shape[2:] == value.shape[2:] == (self.groups, self.size)
        assert (attention_mask is not None) == (self.mask == "arbitrary")
        key, value = (x.repeat_interleave(self.heads // self.groups, 2) for x in (key, value))
        scores = torch.einsum("qbhd,kbhd->bhqk", query.float(), key.float())
        scores = scores / math.sqrt(self.size)
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask, -math.inf)
        elif self.mask != "no_mask":
            scores = scores.masked_fill(self._hidden(len(query), len(key)), -math.inf)
        mixed = torch.einsum("bhqk,kbhd->qbhd", F.softmax(scores, -1), value.float())
        return mixed.to(query.dtype).flatten(2)

    def _hidden(self, queries: int, keys: int) -> Tensor:
        offset = keys - queries if self.mask == "causal_bottom_right" else 0
        place = torch.arange(queries)[:, None] + offset - torch.arange(keys)
        return (place < 0) | (place > (self.window or (keys, 0))[0])


def modules(fp8: str = "", mxfp8: str = "") -> Mapping[str, ModuleType]:
    """The library's modules by name; ``fp8`` and ``mxfp8`` are why the GPU cannot, if it cannot."""
    made = {name: ModuleType(name) for name in NAMES}
    top, pytorch, constants, extensions, engine = made.values()
    vars(top).update(pytorch=pytorch)
    vars(pytorch).update(
        DotProductAttention=DotProductAttention,
        Float8CurrentScalingQuantizer=Float8CurrentScalingQuantizer,
        MXFP8Quantizer=MXFP8Quantizer,
        is_fp8_available=lambda return_reason: (not fp8, fp8),
        is_mxfp8_available=lambda return_reason: (not mxfp8, mxfp8),
        constants=constants, cpp_extensions=extensions,
    )  # fmt: skip
    kinds = (torch.float32, torch.bfloat16, torch.float16, *WIDEST)
    vars(constants).update(TE_DType={kind: kind for kind in kinds})
    vars(extensions).update(general_gemm=general_gemm)
    vars(engine).update(
        rmsnorm_fwd=rmsnorm_fwd, rmsnorm_bwd=rmsnorm_bwd,
        layernorm_fwd=layernorm_fwd, layernorm_bwd=layernorm_bwd,
    )  # fmt: skip
    return made


def install(patch: pytest.MonkeyPatch, **reasons: str) -> None:
    """Put the stand-in where the library would be."""
    for name, module in modules(**reasons).items():
        patch.setitem(sys.modules, name, module)
    patch.setattr(kernels.te, "_ALIGNMENT", ALIGNMENT)
