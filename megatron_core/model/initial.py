"""Initial weights: each grid shard from a counter of its own."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from megatron_core.config import ModelConfig
from megatron_core.model.parameters import parameter_shards


def initialize(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Set every weight of ``model`` from (seed, tensor name, shard), on whichever rank.

    Matrices are normal with ``config.initial_std``, those that write into the residual stream
    scaled by ``1 / sqrt(2 layers)`` (Radford et al., 2019); norms are one, biases zero.
    """
    tied: dict[str, str] = getattr(model, "tied", {})
    for shard in parameter_shards(model):
        # Where the embedding is elsewhere a tied head holds its weights, not draws of its own.
        place, parameter = shard.place, shard.parameter
        name = tied.get(place.tensor, place.tensor)
        if parameter.ndim < 2:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        residual = name.endswith(("attention.output.weight", "down.weight"))
        std = config.initial_std / (2 * config.layers) ** 0.5 if residual else config.initial_std
        parameter.data.copy_(_normal(parameter.shape, seed, name, place.shard) * std)


def _normal(shape: torch.Size, seed: int, name: str, shard: int) -> Tensor:
    """Standard normal fp32 draws on the CPU, a function of (seed, name, shard) alone."""
    digest = hashlib.sha256(f"{seed}:{name}:{shard}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(shape, generator=generator)
