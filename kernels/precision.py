"""The precision that sums are taken in."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """``x`` in fp32, or in fp64 where it is."""
    return x.to(wide_dtype(x.dtype))


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32, or fp64 of fp64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
