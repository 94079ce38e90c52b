"""The ``decontaminate`` section."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from megatron_core.config.corpus.sources import Source
from megatron_core.config.section import Section


class DecontaminateConfig(Section):
    """Hold out documents for evaluation, then drop from training what overlaps with them."""

    heldout: float = Field(
        0.05, gt=0, lt=1, description="Share of documents held out, chosen by a hash of the id"
    )
    heldout_by: str | None = Field(
        None,
        description="Key of the metadata, such as patient, whose values are held out as a whole",
    )
    ngram: int = Field(13, ge=2, description="Words of the n-grams that must not be shared")
    max_overlap: float = Field(
        0.2, ge=0, le=1, description="Largest share of a training document's n-grams seen in one"
    )
    max_covered: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Largest share of an evaluation text's n-grams seen in a training document",
    )
    against: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Source] = Field(
        default_factory=dict, description="Further evaluation sets to stay clear of, by name"
    )
    seed: int = Field(1, ge=0, description="Seed of the choice of held-out documents")

    @field_validator("against")
    @classmethod
    def _sets_are_whole(cls, against: dict[str, Source]) -> dict[str, Source]:
        if "heldout" in against:
            raise ValueError("must not name a set `heldout`: the held-out documents have that name")
        for name, source in against.items():
            if source.share != 1:
                raise ValueError(f"`{name}` must have no `share`: a set counts as a whole")
        return against
