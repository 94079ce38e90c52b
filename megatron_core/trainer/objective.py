"""What a trainer minimizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class LossSum:
    """A loss not yet divided: ``total`` over ``count`` tokens or examples."""

    total: Tensor
    count: int


class Objective(Protocol):
    """A loss over numbered samples, the same on every rank."""

    def loss(self, model: nn.Module, samples: Sequence[int]) -> LossSum:
        """Forward pass over training samples by global number."""
        ...

    def heldout(self, model: nn.Module) -> LossSum:
        """The loss over a fixed held-out sample, without gradients; count 0 when there is none."""
        ...
