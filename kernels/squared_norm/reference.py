"""Squared Euclidean norms of many blocks, added in one order that no library chooses."""

from __future__ import annotations

import torch
from torch import Tensor

# Numbers that are held in fp64 at a time.
_AT_ONCE = 2**20


@torch.no_grad()
def squared_norms(x: Tensor) -> Tensor:
    """Sums of squares of the rows of ``x [rows, n]`` in fp64, ``[rows]``."""
    rows = max(1, _AT_ONCE // max(1, x.shape[1]))
    parts = torch.split(x, rows)
    return torch.cat([halving_sum_(part.to(torch.float64, copy=True).square_()) for part in parts])


def halving_sum_(x: Tensor) -> Tensor:
    """Sums over the last dimension of ``x [..., n]``, ``[...]``; ``x`` is overwritten.

    The second half is added to the first until one number is left; of an odd count the middle one
    waits. Elementwise additions alone, so that the bits depend on nothing but the numbers.
    """
    while x.shape[-1] > 1:
        half = -(-x.shape[-1] // 2)
        first, second = x[..., :half], x[..., half:]
        first[..., : second.shape[-1]] += second
        x = first
    return x.sum(-1)
