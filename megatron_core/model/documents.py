"""Documents that share a sequence and do not see one another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Which document each token of a microbatch's sequences is of, and where in it.

    Attributes:
        numbers: int64 ``[length, b]``, the same for neighbours of one document.
        positions: int64 ``[length, b]``, from 0 at the first token of each document.
    """

    numbers: Tensor
    positions: Tensor

    @classmethod
    def of(cls, numbers: Tensor) -> Documents:
        """Positions from int64 ``numbers [length, b]``."""
        index = torch.arange(len(numbers), device=numbers.device)[:, None]
        begins = torch.ones_like(numbers, dtype=torch.bool)
        begins[1:] = numbers[1:] != numbers[:-1]
        # Integers, so however the running maximum is taken it is exact.
        starts = torch.where(begins, index, 0).cummax(dim=0).values
        return cls(numbers, index - starts)

    def seen(self, start: int, size: int, *, causal: bool, window: int | None) -> Tensor:
        """What the queries of a chunk see: bool ``[b, size, keys]``.

        Args:
            start: The chunk's first token.
            size: Its tokens.
            causal: The keys end with the chunk, and a query sees none after it; otherwise the
                keys are those of the whole sequence.
            window: Newest keys that a query sees, if causal; None is all.
        """
        keys = start + size if causal else len(self.numbers)
        numbers = self.numbers.T
        same = numbers[:, start : start + size, None] == numbers[:, None, :keys]
        if causal:
            same = same.tril(start)
        if causal and window is not None:
            same = same.triu(start - window + 1)
        return same
