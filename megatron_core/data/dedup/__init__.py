"""Exact and near-duplicate removal."""

from megatron_core.data.dedup.minhash import MinHash
from megatron_core.data.dedup.removal import DedupCounts, remove_duplicates

__all__ = ["DedupCounts", "MinHash", "remove_duplicates"]
