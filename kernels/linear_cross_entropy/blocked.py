"""A few rows of logits at a time, which never leave the cache: see the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.cross_entropy import IGNORED
from kernels.precision import wide
from kernels.support import Support

SUPPORT = Support(devices=("cpu",), automatic=("cpu",))

# Logits that are held at a time: 8 MiB of fp32, a share of the last cache.
_AT_ONCE = 2**21


@torch.no_grad()
def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    scale: float | None = None,
    weight_gradient: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As the reference. The logits are fp32 whatever the dtype of ``x``."""
    rows = max(16, _AT_ONCE // len(weight))
    full, matrix = wide(x), wide(weight)
    logits = full.new_empty(min(rows, len(x)), len(weight))
    loss = full.new_zeros(())
    of_x = None if scale is None else torch.empty_like(full)
    of_bias = None if scale is None or bias is None else full.new_zeros(len(bias))
    for start in range(0, len(x), rows):
        part, target = full[start : start + rows], targets[start : start + rows]
        block = torch.mm(part, matrix.T, out=logits[: len(part)])
        if bias is not None:
            block += bias
        counted = target != IGNORED
        index = target.where(counted, 0)[:, None]
        largest = block.amax(dim=-1, keepdim=True)
        right = block.gather(1, index) - largest
        total = block.sub_(largest).exp_().sum(dim=-1, keepdim=True)
        loss += ((total.log() - right)[:, 0] * counted).sum()
        if of_x is None or scale is None:
            continue
        # Softmax less the target, times the scale; nothing where nothing counts.
        block.mul_((scale / total) * counted[:, None])
        block.scatter_add_(1, index, -scale * counted[:, None].to(block.dtype))
        torch.mm(block, matrix, out=of_x[start : start + rows])
        if weight_gradient is not None:
            weight_gradient.addmm_(block.T, part)
        if of_bias is not None:
            of_bias += block.sum(dim=0)
    return loss, None if of_x is None else of_x.to(x.dtype), of_bias
