"""AdamW over whole buffers (Loshchilov and Hutter, 2019)."""

from __future__ import annotations

import torch
from torch import Tensor


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
    """One update of ``weight`` and both moments in place; all fp32 of one shape.

    ``step`` counts from 1. The decay is decoupled: it scales the weight before the update.
    """
    weight.mul_(1.0 - learning_rate * weight_decay)
    first.mul_(beta1).add_(gradient, alpha=1.0 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
    root = second.sqrt().div_((1.0 - beta2**step) ** 0.5).add_(epsilon)
    weight.addcdiv_(first, root, value=-learning_rate / (1.0 - beta1**step))
