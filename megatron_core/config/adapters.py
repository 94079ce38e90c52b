"""What is trained in place of a model's weights, which stay as they are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megatron_core.config.section import Section

Matrix = Literal["query", "key", "value", "output", "gate", "up", "down"]


class LoraConfig(Section):
    """Low-rank changes of matrices (Hu et al., 2022), merged into them after every step."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(8, ge=1, description="Columns of the change's factors")
    alpha: float = Field(16.0, gt=0, description="The change is multiplied by alpha / rank")
    matrices: list[Matrix] = Field(
        ["query", "value"], min_length=1, description="Which of each layer are changed"
    )


class SoftPromptConfig(Section):
    """Vectors before each text in place of embedded tokens (Lester et al., 2021)."""

    kind: Literal["soft_prompt"] = "soft_prompt"
    tokens: int = Field(16, ge=1, description="Vectors, each of which takes a position")
    encoder: int | None = Field(
        None, ge=1,
        description="Width of the two-layer network that makes them while they are trained "
        "(Liu et al., 2021); null trains the vectors themselves",
    )  # fmt: skip


AdapterConfig = Annotated[LoraConfig | SoftPromptConfig, Field(discriminator="kind")]
