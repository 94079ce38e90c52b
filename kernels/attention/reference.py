"""Causal attention with grouped key and value heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention of each position over itself and those before it.

    Args:
        query: ``[batch, heads, length, size]``.
        key: ``[batch, kv_heads, length, size]``; ``heads`` is a multiple of ``kv_heads``.
        value: as ``key``.

    Returns:
        ``[batch, heads, length, size]`` in the dtype of ``query``.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = torch.repeat_interleave(key, groups, dim=1)
        value = torch.repeat_interleave(value, groups, dim=1)
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)
