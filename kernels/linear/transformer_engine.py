"""Transformer Engine's products of matrices: halves whose sums are fp32 and added in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.support import Support
from kernels.te import lacks, placed

SUPPORT = Support(devices=("cuda",), dtypes=(torch.bfloat16, torch.float16), lacks=lacks)

# What a product is computed of: a matrix, whether sums run down its columns, and whether it is a
# gradient.
Operand = Callable[[Tensor, bool, bool], Any]


class Products:
    """The three products of a linear layer, of operands in any form; see the reference."""

    def __init__(self, operand: Operand) -> None:
        self._operand = operand

    def linear(self, x: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """As the reference."""
        product = self._product("TN", weight, x.flatten(0, -2), dtype or x.dtype)
        return product.view(*x.shape[:-1], len(weight))

    def input_gradient(self, gradients: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
        """As the reference; all but the first product are added by the library."""
        total: Tensor | None = None
        for gradient, weight in zip(gradients, weights, strict=True):
            total = self._product("NN", weight, gradient.flatten(0, -2), torch.float32, total)
        if total is None:
            raise ValueError("a gradient of no layer")
        return total.view(*gradients[0].shape[:-1], weights[0].shape[1])

    def add_weight_gradient(self, total: Tensor, gradient: Tensor, x: Tensor) -> None:
        """As the reference."""
        place = placed(total)
        self._product("NT", x.flatten(0, -2), gradient.flatten(0, -2), torch.float32, place)
        if place is not total:
            total.copy_(place)

    def _product(
        self, layout: str, a: Tensor, b: Tensor, dtype: torch.dtype, total: Tensor | None = None
    ) -> Tensor:
        """``b aᵀ`` (TN), ``b a`` (NN) or ``bᵀ a`` (NT) in ``dtype``, or added to ``total``."""
        from transformer_engine.pytorch.cpp_extensions import general_gemm

        product: Tensor = general_gemm(
            self._operand(a, layout[0] == "N", False),
            self._operand(b, layout[1] == "T", layout != "TN"),
            out_dtype=dtype,
            layout=layout,
            out=total,
            accumulate=total is not None,
            use_split_accumulator=True,  # sums of 8-bit numbers are fp32 too
        )[0]
        return product


def _as_it_is(x: Tensor, columns: bool, gradient: bool) -> Tensor:
    return placed(x)


_PRODUCTS = Products(_as_it_is)
linear = _PRODUCTS.linear
input_gradient = _PRODUCTS.input_gradient
add_weight_gradient = _PRODUCTS.add_weight_gradient
