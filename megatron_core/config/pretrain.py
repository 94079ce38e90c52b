"""The ``pretrain`` section."""

from __future__ import annotations

from pydantic import Field

from megatron_core.config.model import ModelConfig
from megatron_core.config.prediction import PredictionConfig


class PretrainConfig(PredictionConfig):
    """Train a transformer from scratch on the tokenized sources."""

    steps: int = Field(300, ge=1, description="Optimizer steps")
    model: ModelConfig = Field(default_factory=ModelConfig, description="Architecture")
