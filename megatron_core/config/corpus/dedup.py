"""The ``dedup`` section."""

from __future__ import annotations

from pydantic import Field

from megatron_core.config.section import Section


class DedupConfig(Section):
    """Drop exact copies, then near-duplicates by MinHash and banded buckets."""

    ngram: int = Field(5, ge=1, description="Words per shingle")
    buckets: int = Field(14, ge=1, description="Bands of the locality-sensitive hash")
    hashes_per_bucket: int = Field(8, ge=1, description="Hashes per band")
    min_jaccard: float = Field(
        0.7, ge=0, le=1, description="Candidates below this true similarity are kept; 0 trusts all"
    )
    seed: int = Field(1, ge=0, description="Seed of the hash functions")
