"""The section ``tokenize.canaries``."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from megatron_core.config.section import Section


class CanariesConfig(Section):
    """Made-up secrets among the training documents, whose memorization `evaluate` measures.

    The method is that of Carlini et al. (2019), "The Secret Sharer".
    """

    source: str = Field(description="Ingested source whose training documents they stand among")
    format: str = Field(
        "The medical record number of the patient is ###-###-###.",
        description="Text of a canary; every # is a random digit",
    )
    copies: list[int] = Field(
        [1, 4, 16], min_length=1, description="How often a canary is planted, by group of canaries"
    )
    count: int = Field(8, ge=1, description="Canaries of each group, and controls never planted")
    seed: int = Field(1, ge=0, description="Of the secrets and their places")

    @property
    def digits(self) -> int:
        """Random digits of a canary."""
        return self.format.count("#")

    @property
    def space(self) -> int:
        """Secrets there are: 10 to the number of digits."""
        return int(10**self.digits)

    @property
    def taken(self) -> int:
        """Secrets of the canaries and controls."""
        return self.count * (len(self.copies) + 1)

    @field_validator("copies")
    @classmethod
    def _groups_differ(cls, copies: list[int]) -> list[int]:
        if min(copies) < 1 or len(set(copies)) < len(copies):
            raise ValueError("must be different numbers, each at least 1")
        return sorted(copies)

    @model_validator(mode="after")
    def _space_is_large(self) -> CanariesConfig:
        if self.space < 2 * self.taken:
            raise ValueError(
                f"`format` has {self.digits} digits (#), so {self.space} secrets: too few for the "
                f"{self.taken} of canaries and controls and as many to compare them with"
            )
        return self
