"""The ``pretrain`` section."""

from __future__ import annotations

from pydantic import Field

from megatron_core.config.model import ModelConfig
from megatron_core.config.section import Section
from megatron_core.config.training import TrainingConfig

Sources = dict[str, float]


class MaskingConfig(Section):
    """Masked-language-model inputs (Devlin et al., 2019)."""

    rate: float = Field(0.15, gt=0, lt=1, description="Share of tokens to predict")
    masked: float = Field(0.8, ge=0, le=1, description="Of these, replaced by the mask token")
    random: float = Field(0.1, ge=0, le=1, description="Of these, replaced by a random token")
    token: int = Field(1, ge=0, description="Id of the mask token")


class PretrainConfig(TrainingConfig):
    """Train a transformer from scratch on the tokenized sources."""

    steps: int = Field(300, ge=1, description="Optimizer steps")
    model: ModelConfig = Field(default_factory=ModelConfig, description="Architecture")
    masking: MaskingConfig = Field(
        default_factory=MaskingConfig, description="Used by an encoder alone"
    )
    sources: Sources = Field(
        default_factory=dict,
        description="Passes over each source per epoch of the mixture; empty takes all once",
    )
