"""AdamW on a cut of flat fp32 main weights."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.registry import Kernels
from megatron_core.config import AdamW


def clip_coefficient(norm: float, limit: float) -> float:
    """What to multiply the gradient by so that its norm is at most ``limit``."""
    return min(1.0, limit / norm) if norm > 0 else 1.0


class AdamWState:
    """Main weights and both moments of AdamW, fp32 ``[n]`` each; ``[:decayed]`` decay."""

    def __init__(self, weights: Tensor, decayed: int) -> None:
        self.weights, self.decayed = weights, decayed
        self.first = torch.zeros_like(weights)
        self.second = torch.zeros_like(weights)

    def update(
        self, gradient: Tensor, *, step: int, rate: float, config: AdamW, kernels: Kernels
    ) -> None:
        """One step in place; ``gradient`` is clipped, ``step`` counts from 1."""
        cut = self.decayed
        for part, decay in ((slice(0, cut), config.weight_decay), (slice(cut, None), 0.0)):
            kernels.adamw_step(
                self.weights[part],
                gradient[part],
                self.first[part],
                self.second[part],
                step=step,
                learning_rate=rate,
                beta1=config.beta1,
                beta2=config.beta2,
                epsilon=config.epsilon,
                weight_decay=decay,
            )
