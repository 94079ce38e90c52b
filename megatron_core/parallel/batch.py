"""What a step reads, and the loss that comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.collectives import tree_sum


@dataclass(frozen=True)
class Batch:
    """Sequences and what is to be predicted of them.

    Attributes:
        tokens: int64 ``[b, length]``.
        targets: int64 ``[b, length]``, or whatever ``losses`` of the model takes as ``[…, b]``.
        count: Predictions that the loss is a sum over.
        by_position: Whether ``targets`` has a sequence dimension, to be cut into chunks.
        documents: int64 ``[b, length]``, which document of its sequence each token is of, when
            they do not see one another and positions restart; None for sequences that are whole.
        types: int64 ``[b, length]``, which of two segments each token is of, when sequences are
            pairs; None otherwise.
        labels: int64 ``[b]``, which kind of pair each is, or ``IGNORED``; with ``types`` alone.
    """

    tokens: Tensor
    targets: Tensor
    count: int
    by_position: bool = True
    documents: Tensor | None = None
    types: Tensor | None = None
    labels: Tensor | None = None

    @property
    def pairs(self) -> int:
        """Pairs whose label counts."""
        return 0 if self.labels is None else int((self.labels != IGNORED).sum())

    def to(self, device: torch.device) -> Batch:
        """The same on ``device``; from pinned memory nobody waits for it."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same in memory that a GPU reads by itself."""
        return self._each(lambda x: x.contiguous().pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {
            name: change(x) for name, x in vars(self).items() if isinstance(x, Tensor)
        }
        return replace(self, **changed)


class MeanLoss(NamedTuple):
    """The loss of what is computed together.

    Attributes:
        mean: Over predictions; where sequences are pairs, the mean over these is added.
        predictions: How many.
        pairs: The mean over pairs; None without.
    """

    mean: float
    predictions: int
    pairs: float | None


@dataclass(frozen=True)
class LossSums:
    """What a mean loss is made of, where it was computed: a GPU has not come to it yet.

    Attributes:
        table: fp64 ``[data shards, context chunks, 2]``, the losses of tokens and of pairs.
        predictions: fp64 scalar, how many; what the gradient is divided by.
        pairs: Whether sequences are pairs.
    """

    table: Tensor
    predictions: Tensor
    pairs: bool

    def read(self) -> MeanLoss:
        """The loss itself, which waits for the device."""
        table, count = self.table.cpu(), int(self.predictions)
        tokens, pairs = (
            tree_sum([tree_sum(row.tolist()) for row in table[..., kind]]) for kind in range(2)
        )
        return MeanLoss((tokens + pairs) / count, count, pairs / count if self.pairs else None)
