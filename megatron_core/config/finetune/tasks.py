"""The tasks that a model is fine-tuned for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megatron_core.config.adapters import AdapterConfig
from megatron_core.config.finetune.examples import (
    DialogueExamples,
    EntityExamples,
    LabelledExamples,
    PreferenceExamples,
    QuestionExamples,
    RelationExamples,
    ScoredExamples,
)
from megatron_core.config.training import TrainingConfig

Pooling = Literal["mean", "first", "last"]


class TaskSettings(TrainingConfig):
    """What every task has."""

    steps: int = Field(150, ge=1, description="Optimizer steps")
    sequence_length: int = Field(128, ge=8, description="Tokens of a sequence; see the task")
    start: str | None = Field(
        None,
        description="`pretrain`, `continued` or another task, which is gone on from; null is "
        "continued, or pretrain where there is none",
    )
    adapter: AdapterConfig | None = Field(
        None, description="What is trained in place of the weights; null trains the weights"
    )
    repeats: int = Field(
        1, ge=1, description="Trainings with seeds seed, seed + 1, …: scores are over all of them"
    )

    def trainings(self, name: str) -> dict[str, int]:
        """The seed of each training of the task ``name``, by its folder."""
        seeds = range(self.seed, self.seed + self.repeats)
        return {name if self.repeats == 1 else f"{name}-{seed}": seed for seed in seeds}


class ClassificationTask(TaskSettings):
    """The class of a text, or of a pair of texts as in inference between sentences."""

    kind: Literal["classification"] = "classification"
    examples: LabelledExamples = Field(description="Texts and their classes")
    pooling: Pooling = Field("mean", description="Which final hidden states the head reads")


class SimilarityTask(TaskSettings):
    """A number for a text or a pair of texts: similarity, or any other score."""

    kind: Literal["similarity"] = "similarity"
    examples: ScoredExamples = Field(description="Texts and their scores")
    pooling: Pooling = Field("mean", description="Which final hidden states the head reads")


class EntitiesTask(TaskSettings):
    """Entities in a text: a tag for each word; longer texts are cut into windows."""

    kind: Literal["entities"] = "entities"
    examples: EntityExamples = Field(description="Texts and their entities")


class RelationsTask(TaskSettings):
    """The relation between two entities that are marked in a text."""

    kind: Literal["relations"] = "relations"
    examples: RelationExamples = Field(description="Texts, entities and relations")


class AnswersTask(TaskSettings):
    """The part of a text that answers a question; longer texts are cut into windows."""

    kind: Literal["answers"] = "answers"
    examples: QuestionExamples = Field(description="Texts, questions and answers")
    stride: int = Field(64, ge=1, description="Tokens that neighbouring windows of a text share")
    question_length: int = Field(32, ge=1, description="Most tokens of a question; the rest is cut")
    longest: int = Field(30, ge=1, description="Most tokens of an answer")


class InstructionsTask(TaskSettings):
    """Responses to prompts, and turns of an assistant; only these count."""

    kind: Literal["instructions"] = "instructions"
    examples: DialogueExamples = Field(description="Prompts and responses")
    packing: bool = Field(True, description="Several conversations in a sequence, kept apart")
    generate: int = Field(
        0, ge=0, description="Tokens generated in answer to each test prompt and scored by ROUGE; "
        "0 generates none",
    )  # fmt: skip


class PreferencesTask(TaskSettings):
    """The preferred of two responses (Rafailov et al., 2023); sequences come in pairs."""

    kind: Literal["preferences"] = "preferences"
    examples: PreferenceExamples = Field(description="Prompts and two responses to each")
    beta: float = Field(0.1, gt=0, description="How strongly the start holds the model back")


TaskConfig = Annotated[
    ClassificationTask
    | SimilarityTask
    | EntitiesTask
    | RelationsTask
    | AnswersTask
    | InstructionsTask
    | PreferencesTask,
    Field(discriminator="kind"),
]
