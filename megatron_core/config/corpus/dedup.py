"""The ``dedup`` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from megatron_core.config.section import Section


class DedupConfig(Section):
    """Drop exact copies, then near-duplicates by MinHash and banded buckets."""

    ngram: int = Field(5, ge=1, description="Words per shingle")
    buckets: int = Field(14, ge=1, description="Bands of the locality-sensitive hash")
    hashes_per_bucket: int = Field(8, ge=1, description="Hashes per band")
    min_jaccard: float = Field(
        0.7, ge=0, le=1, description="Candidates below this true similarity are kept; 0 trusts all"
    )
    max_compared: int = Field(
        256, ge=1, description="Documents of one bucket that each other one there is compared with"
    )
    survivor: Literal["longest", "score"] = Field(
        "longest", description="Which document of a group is kept"
    )
    score: str | None = Field(
        None, description="Key of the metadata with the number that `survivor: score` ranks by"
    )
    shown_clusters: int = Field(
        100, ge=0, description="Largest groups that clusters.jsonl has in full"
    )
    seed: int = Field(1, ge=0, lt=2**32, description="Seed of the hash functions")

    @model_validator(mode="after")
    def _score_is_named(self) -> DedupConfig:
        if (self.survivor == "score") != (self.score is not None):
            raise ValueError("`survivor: score` and the `score` it ranks by belong together")
        return self
