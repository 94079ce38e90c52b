"""The sections from weights to scores: convert, evaluate, audit, report."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_core.config.section import Section


class ConvertConfig(Section):
    """Write the models as Hugging Face folders and compare logits with ours."""

    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Of the stored weights")
    max_logit_difference: float = Field(
        1e-3, gt=0, description="Largest difference from ours that passes, in float32"
    )


class GenerationConfig(Section):
    """The sample generations of the report."""

    prompts: list[str] = Field(
        default_factory=lambda: ["The history of", "Type 2 diabetes mellitus", "An abnormality of"],
        description="Beginnings to continue",
    )
    tokens: int = Field(48, ge=1, description="Longest continuation")
    temperature: float = Field(0.7, ge=0, description="0 takes the likeliest token")
    seed: int = Field(1, ge=0, description="Of the draws")


class EvaluateConfig(Section):
    """Score the models with lm-eval on local tasks made from held-out documents."""

    documents_per_source: int = Field(
        60, ge=1, description="Held-out documents scored for perplexity, of each source"
    )
    max_characters: int = Field(
        4000, ge=100, description="Longer documents are cut for perplexity, after a whole word"
    )
    context: int | None = Field(
        None, ge=8, description="Tokens a model sees at most; null is pretrain.sequence_length"
    )
    questions: int = Field(200, ge=1, description="Multiple-choice questions on definitions")
    question_source: str | None = Field(
        None, description="Ingested source of kind hpo; null asks no questions"
    )
    choices: int = Field(4, ge=2, description="Answers to choose from")
    batch_size: int = Field(8, ge=1, description="Requests scored together")
    threads: int = Field(1, ge=1, description="CPU threads; they can change bits")
    seed: int = Field(1, ge=0, description="Of the choice of documents and distractors")
    generation: GenerationConfig = Field(
        default_factory=GenerationConfig, description="Sample generations"
    )


class AuditConfig(Section):
    """Verify every manifest and retrain from a checkpoint to show that the bits agree."""

    replay: bool = Field(True, description="Retrain from the last checkpoint but one")


class ReportConfig(Section):
    """One self-contained HTML page."""

    title: str = Field("A language model, rebuilt", description="Heading of the page")
