"""One pass over the buffers; each number's update is the same wherever it lies."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.triton import NUMBERS, SUPPORT, blocks, jit, tl

__all__ = ["SUPPORT", "adamw_step"]


@torch.no_grad()
def adamw_step(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """As the reference."""
    buffers = [x.contiguous() for x in (weight, first, second)]
    _step[(blocks(weight.numel(), NUMBERS),)](
        *buffers, gradient.contiguous(), weight.numel(),
        1.0 - learning_rate * weight_decay, beta1, 1.0 - beta1, beta2, 1.0 - beta2,
        1.0 / (1.0 - beta2**step) ** 0.5, epsilon, learning_rate / (1.0 - beta1**step),
        NUMBERS=NUMBERS,
    )  # fmt: skip
    for given, updated in zip((weight, first, second), buffers, strict=True):
        if given is not updated:
            given.copy_(updated)


@jit
def _step(
    weight, first, second, gradient, count, decay, beta1, rest1, beta2, rest2, correction, epsilon,
    rate, NUMBERS: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * NUMBERS + tl.arange(0, NUMBERS)
    there = place < count
    g = tl.load(gradient + place, mask=there, other=0.0)
    m = tl.load(first + place, mask=there, other=0.0) * beta1 + g * rest1
    v = tl.load(second + place, mask=there, other=0.0) * beta2 + g * g * rest2
    w = tl.load(weight + place, mask=there, other=0.0) * decay
    tl.store(first + place, m, mask=there)
    tl.store(second + place, v, mask=there)
    tl.store(weight + place, w - rate * m / (tl.sqrt(v) * correction + epsilon), mask=there)
