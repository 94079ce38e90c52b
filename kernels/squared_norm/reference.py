"""The squared Euclidean norm of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def squared_norm(x: Tensor) -> float:
    """Sum of squares in fp64, as a Python float."""
    return float(x.double().square().sum())
