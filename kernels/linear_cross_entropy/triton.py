"""Blocks of logits, and one pass that turns them into their gradients (Hsu et al., 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.cross_entropy import IGNORED
from kernels.linear import add_weight_gradient, input_gradient, linear
from kernels.triton import NUMBERS, SUPPORT, jit, tl

__all__ = ["SUPPORT", "linear_cross_entropy"]

# Logits that are held at a time: 1 GiB of fp32. A block's weight gradient is a pass over the fp32
# sum, so blocks are to be few.
_AT_ONCE = 2**28


@torch.no_grad()
def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    scale: float | None = None,
    weight_gradient: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As the reference. The logits are fp32 whatever the dtype of ``x``; their gradient is not."""
    count, classes = len(x), len(weight)
    rows = max(16, _AT_ONCE // classes)
    each = torch.empty(count, dtype=torch.float32, device=x.device)
    of_x = None if scale is None else torch.empty_like(x, memory_format=torch.contiguous_format)
    of_bias = None if scale is None or bias is None else each.new_zeros(classes)
    targets, added = targets.contiguous(), None if bias is None else bias.contiguous()
    for start in range(0, count, rows):
        part = x[start : start + rows]
        logits = linear(part, weight, torch.float32)
        gradient = logits if x.dtype == torch.float32 else torch.empty_like(logits, dtype=x.dtype)
        _softmax[(len(part),)](
            logits, logits if added is None else added, targets[start:], each[start:], gradient,
            classes, 0.0 if scale is None else scale, BIASED=added is not None,
            GRADIENT=scale is not None, IGNORED=IGNORED, NUMBERS=NUMBERS, num_warps=8,
        )  # fmt: skip
        if of_x is None:
            continue
        of_x[start : start + rows] = input_gradient([gradient], [weight])
        if weight_gradient is not None:
            add_weight_gradient(weight_gradient, gradient, part)
        if of_bias is not None:
            of_bias += gradient.sum(dim=0, dtype=torch.float32)
    return each.sum(), of_x, of_bias


@jit
def _load(logits, bias, place, classes, BIASED: tl.constexpr):
    numbers = tl.load(logits + place, mask=place < classes, other=float("-inf"))
    if BIASED:
        numbers += tl.load(bias + place, mask=place < classes, other=0.0).to(tl.float32)
    return numbers


@jit
def _softmax(
    logits, bias, targets, each, gradient, classes, scale,
    BIASED: tl.constexpr, GRADIENT: tl.constexpr, IGNORED: tl.constexpr, NUMBERS: tl.constexpr,
):  # fmt: skip
    """The loss of a row and, in their place if they are fp32, the gradient of its logits."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    logits += row * classes
    gradient += row * classes
    largest = tl.full((NUMBERS,), float("-inf"), dtype=tl.float32)
    for start in range(0, classes, NUMBERS):
        place = start + tl.arange(0, NUMBERS)
        largest = tl.maximum(largest, _load(logits, bias, place, classes, BIASED))
    top = tl.max(largest, axis=0)
    sums = tl.zeros((NUMBERS,), dtype=tl.float32)
    rights = tl.zeros((NUMBERS,), dtype=tl.float32)
    for start in range(0, classes, NUMBERS):
        place = start + tl.arange(0, NUMBERS)
        numbers = _load(logits, bias, place, classes, BIASED) - top
        sums += tl.exp(numbers)
        rights += tl.where(place == target, numbers, 0.0)
    total = tl.sum(sums, axis=0)
    counted = target != IGNORED
    tl.store(each + row, tl.where(counted, tl.log(total) - tl.sum(rights, axis=0), 0.0))
    if GRADIENT:
        factor = tl.where(counted, scale, 0.0)
        for start in range(0, classes, NUMBERS):
            place = start + tl.arange(0, NUMBERS)
            share = tl.exp(_load(logits, bias, place, classes, BIASED) - top) / total
            share -= tl.where(place == target, 1.0, 0.0)
            result = (share * factor).to(gradient.dtype.element_ty)
            tl.store(gradient + place, result, mask=place < classes)
