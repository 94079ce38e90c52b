"""Sums that cross shards: balanced trees over shard numbers, locally and between ranks."""

from megatron_core.collectives.exchange import exchange_sum, gather_numbers
from megatron_core.collectives.span import WHOLE, ContextSpan, Span
from megatron_core.collectives.tree import TreeAccumulator, tree_sum

__all__ = [
    "WHOLE",
    "ContextSpan",
    "Span",
    "TreeAccumulator",
    "exchange_sum",
    "gather_numbers",
    "tree_sum",
]
