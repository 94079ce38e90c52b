"""Sums that cross shards: balanced trees over shard numbers, locally and between ranks."""

from megatron_core.collectives.exchange import CutSum, merge, share_cuts
from megatron_core.collectives.peers import peers
from megatron_core.collectives.span import WHOLE, ContextSpan, Span
from megatron_core.collectives.tree import TreeAccumulator, tree_sum

__all__ = [
    "WHOLE",
    "ContextSpan",
    "CutSum",
    "Span",
    "TreeAccumulator",
    "merge",
    "peers",
    "share_cuts",
    "tree_sum",
]
