"""AdamW on flat fp32 main weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from kernels.adamw import adamw_step
from kernels.squared_norm import squared_norm
from megatron_core.config import AdamW
from megatron_core.optimizer.flat import FlatLayout


def global_norm(gradients: Mapping[str, Tensor]) -> float:
    """The norm over all ``gradients``: fp64 sums of squares per tensor, added in name order."""
    return math.sqrt(sum(squared_norm(gradients[name]) for name in sorted(gradients)))


def clip_coefficient(norm: float, limit: float) -> float:
    """What to multiply the gradient by so that its norm is at most ``limit``."""
    return min(1.0, limit / norm) if norm > 0 else 1.0


class AdamWState:
    """Main weights and both moments of AdamW, fp32, each one flat buffer."""

    def __init__(self, layout: FlatLayout, device: torch.device) -> None:
        self.layout = layout
        self.weights = layout.zeros(device)
        self.first = layout.zeros(device)
        self.second = layout.zeros(device)

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint holds, as views: ``weights/…``, ``first/…``, ``second/…``."""
        return {
            f"{kind}/{name}": view
            for kind in ("weights", "first", "second")
            for name, view in self.layout.views(getattr(self, kind)).items()
        }

    def update(self, gradient: Tensor, *, step: int, rate: float, config: AdamW) -> None:
        """One step in place; ``gradient`` is flat and clipped, ``step`` counts from 1."""
        cut = self.layout.decayed
        for part, decay in ((slice(0, cut), config.weight_decay), (slice(cut, None), 0.0)):
            adamw_step(
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
