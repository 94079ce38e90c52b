"""The linear layer and its two gradients, each with fp32 sums."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.precision import wide, wide_dtype


def linear(x: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``x [..., in] @ weight [out, in]ᵀ`` in ``dtype``, by default that of ``x``."""
    rows = x.flatten(0, -2)
    product = _product(rows, weight.T, dtype or x.dtype)
    return product.view(*x.shape[:-1], weight.shape[0])


def input_gradient(gradients: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """The fp32 gradient ``[..., in]`` of an input that several layers share.

    Args:
        gradients: ``[..., out_i]`` of each layer's output.
        weights: ``[out_i, in]``; the products are added in this order.
    """
    first = gradients[0].flatten(0, -2)
    total = _product(first, weights[0], wide_dtype(first.dtype))
    for gradient, weight in zip(gradients[1:], weights[1:], strict=True):
        _add_product(total, gradient.flatten(0, -2), weight)
    return total.view(*gradients[0].shape[:-1], weights[0].shape[1])


def add_weight_gradient(total: Tensor, gradient: Tensor, x: Tensor) -> None:
    """Add ``gradient [..., out]ᵀ @ x [..., in]`` to the fp32 ``total [out, in]`` in place."""
    _add_product(total, gradient.flatten(0, -2).T, x.flatten(0, -2))


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    if a.dtype == dtype and (a.dtype in (torch.float32, torch.float64) or a.is_cuda):
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=dtype)
    # A CPU multiplies halves a hundred times slower than floats, and the sums are fp32 anyway.
    return (wide(a) @ wide(b)).to(dtype)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if a.is_cuda and a.dtype not in (torch.float32, torch.float64):
        total.add_(torch.mm(a, b, out_dtype=torch.float32))
    else:
        total.addmm_(wide(a), wide(b))
