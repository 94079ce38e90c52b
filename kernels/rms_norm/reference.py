"""Root-mean-square normalization (Zhang and Sennrich, 2019)."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """``x`` over its root mean square along the last dimension, times ``weight``.

    Args:
        x: ``[..., hidden]``; the mean square is taken in fp32 whatever its dtype.
        weight: ``[hidden]``.
    """
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + epsilon)
    return (wide * scale).to(x.dtype) * weight
