"""The ``finetune`` section."""

from __future__ import annotations

from pydantic import Field

from megatron_core.config.prediction import PredictionConfig
from megatron_core.config.section import Section
from megatron_core.config.training import TrainingConfig


class ContinuedConfig(PredictionConfig):
    """Domain-adaptive continued pretraining: the same objective on the domain's text."""

    steps: int = Field(100, ge=1, description="Optimizer steps")


class ClassificationConfig(TrainingConfig):
    """Classify ICD-10-CM codes into chapters from their descriptions."""

    steps: int = Field(150, ge=1, description="Optimizer steps")
    sequence_length: int = Field(48, ge=8, description="Tokens per description; longer ones cut")
    source: str = Field(description="Ingested source of kind icd10cm")
    codes_per_category: int = Field(
        8, ge=1, description="Most examples taken from one three-character category"
    )


class FinetuneConfig(Section):
    """Adapt the pretrained model to a domain, then fine-tune it for a task of the domain."""

    continued: ContinuedConfig = Field(
        default_factory=ContinuedConfig, description="Continued pretraining"
    )
    classification: ClassificationConfig | None = Field(
        None, description="Classifier on the adapted model; null for none"
    )
