"""Rows that go to other ranks and come back, a different number to each."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from megatron_core.collectives.peers import peers
from megatron_core.collectives.span import Span


def exchange_rows(rows: Tensor, sent: Sequence[int], received: Sequence[int], span: Span) -> Tensor:
    """Give each rank of ``span`` its rows, in the order of the ranks; the rows for this one.

    Args:
        rows: ``[Σ sent, …]``, those for the first rank first.
        sent: Rows for each rank.
        received: Rows from each rank; the result is ``[Σ received, …]``.
    """
    if span.ranks == 1:
        return rows
    result = rows.new_empty(sum(received), *rows.shape[1:])
    with peers():
        dist.all_to_all_single(
            result, rows.contiguous(), list(received), list(sent), group=span.group
        )
    return result
