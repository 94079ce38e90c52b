"""The ``decontaminate`` section."""

from __future__ import annotations

from pydantic import Field

from megatron_core.config.corpus.sources import Jsonl
from megatron_core.config.section import Section


class DecontaminateConfig(Section):
    """Hold out documents for evaluation, then drop from training what overlaps with them."""

    heldout: float = Field(
        0.05, gt=0, lt=1, description="Share of documents held out, chosen by a hash of the id"
    )
    ngram: int = Field(13, ge=2, description="Words of the n-grams that must not be shared")
    max_overlap: float = Field(
        0.2, ge=0, le=1, description="Largest share of a training document's n-grams seen in one"
    )
    against: dict[str, Jsonl] = Field(
        default_factory=dict, description="Further evaluation sets to stay clear of, by name"
    )
    seed: int = Field(1, ge=0, description="Seed of the choice of held-out documents")
