"""Attention with grouped key and value heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    window: int | None = None,
    seen: Tensor | None = None,
) -> Tensor:
    """Softmax attention of each query over the keys.

    Args:
        query: ``[length, batch, heads, size]``: the last ``length`` of the keys' positions.
        key: ``[keys, batch, kv_heads, size]``; ``heads`` is a multiple of ``kv_heads``.
        value: as ``key``.
        causal: Each query sees the keys up to its own position; otherwise all of them.
        window: Of these the newest only, if causal; None is all.
        seen: bool ``[batch, length, keys]``, which keys each query sees, at least one; given, it
            alone counts.

    Returns:
        ``[length, batch, heads, size]`` in the dtype of ``query``.
    """
    groups = query.shape[2] // key.shape[2]
    if groups > 1:
        key = torch.repeat_interleave(key, groups, dim=2)
        value = torch.repeat_interleave(value, groups, dim=2)
    length, keys = query.shape[0], key.shape[0]
    mask: Tensor | None = None
    if seen is not None:
        mask = seen[:, None]
    elif causal and window is not None and window < keys:
        seen = query.new_ones(length, keys, dtype=torch.bool).tril(keys - length)
        mask = seen.triu(keys - length - window + 1)
    elif causal and keys > length:
        # A GPU's kernels know this mask by its kind; a CPU's want it written out.
        mask = (
            causal_lower_right(length, keys)
            if query.is_cuda
            else query.new_ones(length, keys, dtype=torch.bool).tril(keys - length)
        )
    query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
    mixed = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal and mask is None
    )
    return mixed.permute(2, 0, 1, 3)
