"""The ``pretrain`` section."""

from __future__ import annotations

from pydantic import Field

from megatron_core.config.model import ModelConfig
from megatron_core.config.prediction import PredictionConfig


class PretrainConfig(PredictionConfig):
    """Train a transformer on the tokenized sources, from scratch or from a model that exists."""

    start: str | None = Field(
        None,
        description="Folder of a model to begin with, ours or another library's; null draws "
        "initial weights",
    )
    steps: int = Field(
        300, ge=0, description="Optimizer steps; 0 takes the model in `start` as it is"
    )
    model: ModelConfig = Field(default_factory=ModelConfig, description="Architecture")
