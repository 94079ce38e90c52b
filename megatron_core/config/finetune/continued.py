"""Continued pretraining."""

from __future__ import annotations

from pydantic import Field

from megatron_core.config.adapters import LoraConfig
from megatron_core.config.prediction import PredictionConfig


class ContinuedConfig(PredictionConfig):
    """Domain-adaptive continued pretraining: the same objective on the domain's text."""

    steps: int = Field(100, ge=1, description="Optimizer steps")
    adapter: LoraConfig | None = Field(
        None, description="What is trained in place of the weights; null trains the weights"
    )
