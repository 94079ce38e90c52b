"""Two segments that share a sequence, as in BERT."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """Which segment each token of a microbatch's sequences is of, and what is to be told of them.

    Attributes:
        types: int64 ``[length, b]``: 0 or 1.
        labels: int64 ``[b]``: 0 or 1, ``IGNORED`` where nothing is to be told; None where that is
            so of all.
        weight: What the loss of a pair is multiplied by. As the whole loss is later divided by
            the number of predictions, it is the predictions for each pair of the batch.
    """

    types: Tensor
    labels: Tensor | None = None
    weight: float = 0.0
