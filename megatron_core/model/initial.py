"""Initial weights: each grid shard from a counter of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Container

import torch
from torch import Tensor, nn

from megatron_core.config import ModelConfig
from megatron_core.model.parameters import parameter_shards


def initialize(
    model: nn.Module, config: ModelConfig, seed: int, *, known: Container[str] = ()
) -> None:
    """Set every weight of ``model`` from (seed, tensor name, shard), on whichever rank.

    Matrices are normal with ``config.initial_std``, those that write into the residual stream
    scaled by ``1 / sqrt(2 layers)`` (Radford et al., 2019); norms are one, biases zero.
    Of a low-rank change one factor is zero, the other normal with ``1 / sqrt(3 in)``.

    Args:
        known: Names of tensors that have their values.
    """
    tied: dict[str, str] = getattr(model, "tied", {})
    for shard in parameter_shards(model):
        # Where the embedding is elsewhere a tied head holds its weights, not draws of its own.
        place, parameter = shard.place, shard.parameter
        name = tied.get(place.tensor, place.tensor)
        if name in known:
            continue
        if parameter.ndim < 2:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        if name.endswith("lora.b"):
            parameter.data.zero_()
            continue
        residual = name.endswith(("attention.output.weight", "down.weight"))
        std = config.initial_std / (2 * config.layers) ** 0.5 if residual else config.initial_std
        if name.endswith("lora.a"):
            std = (3 * place.shape[1]) ** -0.5
        parameter.data.copy_(_normal(parameter.shape, seed, name, place.shard) * std)


def _normal(shape: torch.Size, seed: int, name: str, shard: int) -> Tensor:
    """Standard normal fp32 draws on the CPU, a function of (seed, name, shard) alone."""
    digest = hashlib.sha256(f"{seed}:{name}:{shard}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(shape, generator=generator)
