"""Layer normalization (Ba et al., 2016)."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.precision import wide


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """``x`` less its mean, over its standard deviation, times ``weight``, plus ``bias``.

    Args:
        x: ``[..., hidden]``; mean and variance are taken in fp32 whatever its dtype.
        weight: ``[hidden]``, as ``bias``.
    """
    full = wide(x)
    centered = full - full.mean(dim=-1, keepdim=True)
    scale = torch.rsqrt(centered.square().mean(dim=-1, keepdim=True) + epsilon)
    return (centered * scale).to(x.dtype) * weight + bias
