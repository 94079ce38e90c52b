"""What is timed of a recipe: its tokens, its initial weights, a step of our engine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.plain import Reader
from megatron_core.config import PretrainConfig
from megatron_core.model import LanguageModel, Share, initialize, parameter_shards
from megatron_core.optimizer import clip_coefficient
from megatron_core.parallel.batch import Batch
from megatron_core.parallel.engine import Engine
from megatron_core.parallel.mesh import Mesh


def random_tokens(config: PretrainConfig) -> Reader:
    """Reads samples, each drawn by its number; some tokens are frequent, so there is to learn."""

    def draw(sample: int) -> Tensor:
        generator = torch.Generator().manual_seed(sample)
        uniform = torch.rand(config.sequence_length + 1, generator=generator)
        return (config.model.vocabulary * uniform**4).long()

    def read(samples: range) -> Batch:
        windows = torch.stack([draw(sample) for sample in samples])
        return Batch(windows[:, :-1], windows[:, 1:], windows[:, 1:].numel())

    return read


def initial_weights(config: PretrainConfig) -> dict[str, Tensor]:
    """Those that the engine begins with, by name; tied ones under their owner."""
    model = LanguageModel(config.model)
    initialize(model, config.model, config.seed)
    return {
        shard.place.tensor: shard.parameter.detach()
        for shard in parameter_shards(model)
        if shard.place.tensor not in model.tied
    }


def engine_step(
    config: PretrainConfig, mesh: Mesh, read: Reader | None = None
) -> Callable[[int], float]:
    """A step of the engine as the trainer takes it; it returns the mean loss."""

    def build(share: Share) -> LanguageModel:
        model = LanguageModel(config.model, share)
        initialize(model, config.model, config.seed)
        return model

    engine, adamw = Engine(build, config, mesh, model=config.model), config.optimizer
    batches = read or random_tokens(config)

    def step(number: int) -> float:
        sums = engine.gradient(batches, number)
        norm = engine.measure(checksums=True).norm
        loss = sums.read().mean
        coefficient = clip_coefficient(norm, adamw.clip)
        engine.update(step=number, rate=adamw.learning_rate, coefficient=coefficient)
        return loss

    return step
