"""Exact and near-duplicate removal."""

from megatron_core.data.dedup.clusters import Clusters
from megatron_core.data.dedup.minhash import MinHash, candidate_groups, jaccard
from megatron_core.data.dedup.removal import DedupCounts, remove_duplicates

__all__ = [
    "Clusters",
    "DedupCounts",
    "MinHash",
    "candidate_groups",
    "jaccard",
    "remove_duplicates",
]
