"""What every training run is made of: grid, batch, optimizer, schedule, checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from megatron_core.config.kernels import KernelsConfig
from megatron_core.config.section import Section, operational


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("must be a power of two, so that every sum is a balanced tree")
    return value


Degree = Annotated[int, Field(ge=1), AfterValidator(_power_of_two)]


class Grid(Section):
    """The logical shards the arithmetic is defined on; part of the recipe, unlike the layout."""

    data: Degree = Field(1, description="Data shards")
    tensor: Degree = Field(1, description="Shards of each weight matrix")
    context: Degree = Field(1, description="Chunks of each sequence")


class BatchSizes(Section):
    """How many sequences one optimizer step sees, and how many one forward pass does."""

    sequences: int = Field(32, ge=1, description="Sequences per optimizer step")
    microbatch: int = Field(4, ge=1, description="Sequences per forward and backward pass")


class AdamW(Section):
    """AdamW (Loshchilov and Hutter, 2019) with the gradient clipped to a global norm."""

    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay of the second moment")
    epsilon: float = Field(1e-8, gt=0, description="Added to the root of the second moment")
    weight_decay: float = Field(0.1, ge=0, description="Decoupled decay of matrices")
    clip: float = Field(1.0, gt=0, description="Largest global norm of the gradient")


class RateSchedule(Section):
    """The learning rate over the steps: linear warm-up, then cosine or warm-up-stable-decay."""

    kind: Literal["cosine", "wsd"] = Field("cosine", description="Shape after the warm-up")
    warmup_steps: int = Field(20, ge=0, description="Steps of linear warm-up")
    decay: float = Field(0.2, gt=0, le=1, description="Share of the steps that wsd decays over")
    final: float = Field(0.1, ge=0, le=1, description="Last learning rate over the peak")


class Checkpoints(Section):
    """When to save and what to keep."""

    every: int = operational(50, "Steps between checkpoints", ge=1)
    keep_last: int = operational(2, "Newest checkpoints kept", ge=1)
    keep_every: int | None = operational(
        None, "Steps between checkpoints that are kept for good; null keeps none", ge=1
    )


def _exact_scale(value: int) -> int:
    if value & (value - 1):
        raise ValueError("must be a power of two, so that scaling is exact")
    return value


class LossScale(Section):
    """Dynamic loss scaling for fp16 (Micikevicius et al., 2018); other precisions need none."""

    initial: Annotated[int, Field(ge=1), AfterValidator(_exact_scale)] = Field(
        65_536, description="First scale"
    )
    growth_every: int = Field(
        2000, ge=1, description="Steps without overflow after which the scale doubles"
    )


class TrainingConfig(Section):
    """One training run."""

    steps: int = Field(ge=1, description="Optimizer steps")
    sequence_length: int = Field(256, ge=8, description="Tokens per sequence")
    batch: BatchSizes = Field(
        default_factory=BatchSizes, description="Sizes of batch and microbatch"
    )
    optimizer: AdamW = Field(default_factory=AdamW, description="Optimizer")
    schedule: RateSchedule = Field(
        default_factory=RateSchedule, description="Learning rate over steps"
    )
    grid: Grid = Field(default_factory=Grid, description="Shards the arithmetic is defined on")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Of activations; main weights and gradient sums are always fp32"
    )
    loss_scale: LossScale = Field(default_factory=LossScale, description="Used by fp16 alone")
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the arithmetic runs")
    threads: int = Field(1, ge=1, description="CPU threads per process; they can change bits")
    kernels: KernelsConfig = Field(
        default_factory=KernelsConfig, description="What computes each operation"
    )
    seed: int = Field(1, ge=0, description="Of initial weights and data order")
    checkpoints: Checkpoints = Field(
        default_factory=Checkpoints, description="When to save and what to keep"
    )
    recompute: Literal["none", "selective", "full"] = operational(
        "none", "Activations computed again in the backward pass: none, attention's, all"
    )
    bucket_megabytes: float = operational(
        25.0, "Gradients exchanged together while the backward pass runs", gt=0
    )
    fingerprint_every: int = operational(
        1, "Steps between checksums of every tensor; 0 keeps none", ge=0
    )
    hang_after: int = operational(
        600, "Seconds without a step after which a run stops and names the missing rank", ge=1
    )
    validate_every: int = operational(50, "Steps between held-out losses", ge=1)
    trackers: list[Literal["dvclive", "tensorboard", "wandb"]] = operational(
        ["dvclive"], "Where curves go; tensorboard and wandb are extras"
    )
