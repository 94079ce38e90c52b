"""Root-mean-square normalization (Zhang and Sennrich, 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.precision import wide


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """``x`` over its root mean square along the last dimension, times ``weight``.

    Args:
        x: ``[..., hidden]``; the mean square is taken in fp32 whatever its dtype.
        weight: ``[hidden]``.
    """
    full = wide(x)
    scale = torch.rsqrt(full.square().mean(dim=-1, keepdim=True) + epsilon)
    return (full * scale).to(x.dtype) * weight
