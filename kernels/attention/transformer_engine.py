"""Transformer Engine's attention, which takes cuDNN's, FlashAttention's or its own."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.support import Support
from kernels.te import lacks_determinism, placed

SUPPORT = Support(
    devices=("cuda",), dtypes=(torch.bfloat16, torch.float16), lacks=lacks_determinism
)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    window: int | None = None,
    seen: Tensor | None = None,
) -> Tensor:
    """As the reference. With ``seen`` the scores are held in memory: no faster kind can."""
    from transformer_engine.pytorch import DotProductAttention

    # Masks with their corner at the bottom right: the queries are the keys' last.
    mask, width = "no_mask", None
    if seen is not None:
        mask = "arbitrary"
    elif causal:
        mask = "causal" if len(query) == len(key) else "causal_bottom_right"
        if window is not None and window < len(key):
            width = (window - 1, 0)
    # It holds no weights, so that one may be made for each call.
    layer = DotProductAttention(
        query.shape[2], query.shape[3], num_gqa_groups=key.shape[2], qkv_format="sbhd",
        attn_mask_type=mask, window_size=width,
    )  # fmt: skip
    hidden = None if seen is None else ~seen[:, None]
    mixed: Tensor = layer(*(placed(x) for x in (query, key, value)), attention_mask=hidden)
    return mixed.view(query.shape)
