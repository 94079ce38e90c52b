"""The sections ``evaluate`` and, within it, the sample generations."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_core.config.section import Section


class SamplingConfig(Section):
    """How a text is continued."""

    tokens: int = Field(48, ge=1, description="Longest continuation")
    temperature: float = Field(0.7, ge=0, description="0 takes the likeliest token")
    top_k: int | None = Field(None, ge=1, description="Likeliest tokens to draw from; null is all")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Draw from the likeliest that together reach it; null is all"
    )
    stop: list[str] = Field(
        default_factory=list, description="Texts before which a continuation ends"
    )
    seed: int = Field(1, ge=0, description="Of the draws")


class GenerationConfig(SamplingConfig):
    """The sample generations of the report."""

    prompts: list[str] = Field(
        default_factory=lambda: ["The history of", "Type 2 diabetes mellitus", "An abnormality of"],
        description="Beginnings to continue",
    )
    slots: int = Field(8, ge=1, description="Prompts continued at a time; can change bits")


class MemorizationConfig(Section):
    """What a decoder remembers of the training text: canaries, and what it repeats verbatim."""

    alternatives: int = Field(
        1000, ge=10, description="Random secrets among which each canary is ranked"
    )
    documents: int = Field(
        50, ge=1, description="Documents of each split whose beginning is continued"
    )
    prefix: int = Field(50, ge=1, description="Tokens of such a beginning")
    continuation: int = Field(50, ge=1, description="Tokens that follow it")
    samples: int = Field(
        4, ge=1, description="Free continuations of nothing, and of each of generation.prompts"
    )
    temperature: float = Field(1.0, gt=0, description="Of what is drawn; the rest is the likeliest")


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
    tasks: list[str] = Field(
        default_factory=list, description="Tasks and groups of lm-eval, by name, beside ours"
    )
    include: str | None = Field(None, description="Folder with further tasks, as lm-eval's YAML")
    limit: int | None = Field(None, ge=1, description="First documents of each such task; all")
    hub: bool = Field(
        False, description="Such tasks may fetch their data from the Hugging Face Hub"
    )
    scorers: list[Literal["native", "hugging_face"]] = Field(
        ["native", "hugging_face"],
        min_length=1,
        description="Our model, its export through transformers, or both, whose difference is "
        "told; the numbers are those of the first",
    )
    batch_tokens: int | None = Field(
        None, ge=8, description="Score in rows of so many tokens; null scores each request alone"
    )
    shards: int | None = Field(
        None, ge=1, description="Tensor shards of the arithmetic; null is those of the training"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Of weights and activations")
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where models are scored")
    threads: int = Field(1, ge=1, description="CPU threads; they can change bits")
    memorization: MemorizationConfig | None = Field(
        None, description="Measure what models remember of the training text; null does not"
    )
    seed: int = Field(1, ge=0, description="Of the choice of documents and distractors")
    generation: GenerationConfig = Field(
        default_factory=GenerationConfig, description="Sample generations"
    )
