"""What a step reads, and the loss that comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from kernels.cross_entropy import IGNORED


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
