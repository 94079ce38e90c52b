"""What a trainer minimizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.parallel.batch import Batch


class Objective(Protocol):
    """Numbered samples, the same on every rank; the loss over them is the model's."""

    def read(self, samples: Sequence[int]) -> Batch:
        """Training samples by global number."""
        ...

    def heldout(self, microbatch: int, multiple: int) -> list[Callable[[], Batch]]:
        """A fixed held-out sample in a ``multiple`` of microbatches; empty when there is none.

        What fills up the last ones is not to be predicted.
        """
        ...


def padded_places(count: int, microbatch: int, multiple: int) -> list[list[int]]:
    """Numbers ``0 … count - 1`` in microbatches, a multiple of them; -1 fills up."""
    size = microbatch * multiple
    numbers = [*range(count), *(-1 for _ in range(-count % size))]
    return [numbers[i : i + microbatch] for i in range(0, len(numbers), microbatch)]


def ignore(targets: Tensor, rows: Sequence[int]) -> Tensor:
    """``targets [..., b]`` where nothing is to be predicted of those in ``rows`` that are -1."""
    filled = torch.tensor([row < 0 for row in rows])
    return targets.masked_fill(filled, IGNORED)
