"""The squared Euclidean norm of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def squared_norm(x: Tensor) -> Tensor:
    """Sum of squares of ``x [n]`` in fp64: a scalar on its device."""
    wide = x.flatten().double()
    return torch.dot(wide, wide)
