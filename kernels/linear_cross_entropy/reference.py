"""A linear layer and the cross-entropy of its outputs, with the gradients of both."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.cross_entropy import IGNORED
from kernels.linear import add_weight_gradient, input_gradient, linear
from kernels.precision import wide


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
    """The sum of ``-log p(target)`` in nats, and the gradients of ``scale`` times it.

    Loss and gradients come together, so that a backend need not keep the logits.

    Args:
        x: ``[n, in]``.
        weight: ``[classes, in]``.
        targets: int64 ``[n]``; those equal to ``IGNORED`` do not count.
        bias: ``[classes]``.
        scale: None asks for no gradients.
        weight_gradient: fp32 ``[classes, in]``, which the weight's is added to.

    Returns:
        The loss, fp32 scalar; the gradients of ``x`` in its dtype and of ``bias`` in fp32, or None.
    """
    logits = linear(x, weight)
    if bias is not None:
        logits += bias
    logarithms = F.log_softmax(wide(logits), dim=-1)
    del logits
    loss = F.nll_loss(logarithms, targets, reduction="sum", ignore_index=IGNORED)
    if scale is None:
        return loss, None, None
    counted = (targets != IGNORED)[:, None]
    picked = torch.zeros_like(logarithms)
    picked.scatter_(1, targets[:, None].where(counted, 0), counted * -scale)
    gradient = torch.ops.aten._log_softmax_backward_data(picked, logarithms, -1, logarithms.dtype)
    of_bias = None if bias is None else gradient.sum(dim=0)
    gradient = gradient.to(x.dtype)
    if weight_gradient is not None:
        add_weight_gradient(weight_gradient, gradient, x)
    return loss, input_gradient([gradient], [weight]).to(x.dtype), of_bias
