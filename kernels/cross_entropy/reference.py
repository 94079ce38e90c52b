"""Cross-entropy of next-token logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kernels.precision import wide

IGNORED = -100  # a target that does not count


def cross_entropy_each(logits: Tensor, targets: Tensor) -> Tensor:
    """``-log p(target)`` in nats of each position: fp32 ``[...]``, 0 where ``IGNORED``.

    Args:
        logits: ``[..., classes]``; taken to fp32 first.
        targets: int64 ``[...]``.
    """
    each = F.cross_entropy(
        wide(logits.flatten(0, -2)), targets.flatten(), reduction="none", ignore_index=IGNORED
    )
    return each.view(targets.shape)


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum, not the mean, of ``-log p(target)`` in nats: fp32 scalar.

    The caller divides by the token count once, after every shard's sum has been added.

    Args:
        logits: ``[..., classes]``; taken to fp32 first.
        targets: int64 ``[...]``; positions equal to ``IGNORED`` do not count.
    """
    return F.cross_entropy(
        wide(logits.flatten(0, -2)), targets.flatten(), reduction="sum", ignore_index=IGNORED
    )
