"""Keys and values across the context chunks of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from kernels.precision import wide, wide_dtype
from megatron_core.collectives import ContextSpan, tree_sum


def visible(chunks: Sequence[Tensor], span: ContextSpan, *, causal: bool) -> tuple[Tensor, ...]:
    """What each local query chunk sees of the keys, or values, of the whole sequence.

    Args:
        chunks: ``[s, b, …]`` of each local chunk.
        causal: Up to the end of the query's chunk; otherwise all.

    Returns:
        For each local chunk ``[length, b, …]`` with ``length`` a multiple of ``s``.
    """
    if span.shards == 1:
        return tuple(chunks)
    result: tuple[Tensor, ...] = _Visible.apply(span, causal, *chunks)  # type: ignore[no-untyped-call]
    return result


class _Visible(Function):
    """Gathers the chunks. A chunk's gradient is the tree sum over the queries that saw it."""

    @staticmethod
    def forward(ctx: Any, span: ContextSpan, causal: bool, *chunks: Tensor) -> tuple[Tensor, ...]:
        ctx.span, ctx.causal, ctx.dtype = span, causal, chunks[0].dtype
        size = chunks[0].shape[0]
        leaves = span.gather(torch.cat(chunks)).split(size)  # type: ignore[no-untyped-call]
        whole = torch.cat([leaves[span.leaf(chunk)] for chunk in range(span.shards)])
        return tuple(
            whole[: (chunk + 1) * size] if causal else whole.view_as(whole) for chunk in span.chunks
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        span = ctx.span
        size = gradients[0].shape[0] // (span.chunks[0] + 1 if ctx.causal else span.shards)
        sums = []
        for leaf in range(span.shards):
            start = span.chunk(leaf) * size
            # A query that did not see the chunk adds zeros, also on ranks where none did.
            parts = [
                wide(g[start : start + size])
                if g.shape[0] > start
                else g.new_zeros(size, *g.shape[1:], dtype=wide_dtype(g.dtype))
                for g in gradients
            ]
            sums.append(tree_sum(parts))
        own = span.scatter_sum(torch.cat(sums)).to(ctx.dtype)
        return None, None, *own.split(size)
