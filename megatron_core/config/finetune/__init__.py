"""The ``finetune`` section."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from megatron_core.config.finetune.continued import ContinuedConfig
from megatron_core.config.finetune.examples import (
    ChapterExamples,
    DialogueExamples,
    EntityExamples,
    ExampleFiles,
    PreferenceExamples,
    QuestionExamples,
    RelationExamples,
    ScoredExamples,
    TextExamples,
)
from megatron_core.config.finetune.tasks import (
    AnswersTask,
    ClassificationTask,
    EntitiesTask,
    InstructionsTask,
    PreferencesTask,
    RelationsTask,
    SimilarityTask,
    TaskConfig,
    TaskSettings,
)
from megatron_core.config.section import Section

__all__ = [
    "AnswersTask",
    "ChapterExamples",
    "ClassificationTask",
    "ContinuedConfig",
    "DialogueExamples",
    "EntitiesTask",
    "EntityExamples",
    "ExampleFiles",
    "FinetuneConfig",
    "InstructionsTask",
    "PreferenceExamples",
    "PreferencesTask",
    "QuestionExamples",
    "RelationExamples",
    "RelationsTask",
    "ScoredExamples",
    "SimilarityTask",
    "TaskConfig",
    "TaskSettings",
    "TextExamples",
]


class FinetuneConfig(Section):
    """Adapt the pretrained model to a domain, then fine-tune it for tasks of the domain."""

    continued: ContinuedConfig | None = Field(
        default_factory=ContinuedConfig, description="Continued pretraining; null for none"
    )
    tasks: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], TaskConfig] = Field(
        default_factory=dict, description="Trained in this order, each on its own"
    )
