"""The definition through ``torch.compile``: one pass over the buffers."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.compiled import SUPPORT, Compiled

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
    # A tensor: numbers that change would be constants of the code, which is compiled anew.
    factors = torch.tensor(
        [
            1.0 - learning_rate * weight_decay,
            beta1,
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            (1.0 - beta2**step) ** 0.5,
            epsilon,
            -learning_rate / (1.0 - beta1**step),
        ]
    )
    _step(weight, gradient, first, second, *factors.unbind())


def _update(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    decay: Tensor,
    beta1: Tensor,
    rest1: Tensor,
    beta2: Tensor,
    rest2: Tensor,
    correction: Tensor,
    epsilon: Tensor,
    rate: Tensor,
) -> None:
    """The factors are fp32 scalars on the CPU, which every device's code reads as numbers."""
    first.copy_(first * beta1 + gradient * rest1)
    second.copy_(second * beta2 + gradient * gradient * rest2)
    weight.copy_(weight * decay + first / (second.sqrt() / correction + epsilon) * rate)


_step = Compiled(_update, varying=True)
