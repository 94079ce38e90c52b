"""The precision that sums are taken in."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """``x`` in fp32, or in fp64 where it is."""
    return x if x.dtype == torch.float64 else x.float()
