"""The angles of rotary positions, also where they are scaled for longer sequences."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.rotary import rotary_frequencies, rotary_table
from megatron_core.config.model import ModelConfig, RotaryScaling

# YaRN keeps frequencies that turn more often than this over the first training's length, and
# scales those that turn less often than that (Peng et al., 2023, section 3.2).
_KEPT, _SCALED = 32.0, 1.0


def rotary_angles(config: ModelConfig) -> Tensor:
    """Cosines and sines of every position: fp32 ``[2, positions, head_size]``."""
    plain = rotary_frequencies(config.head_size, config.rope_theta)
    scaling = config.rope_scaling
    if scaling is None:
        return rotary_table(config.positions, plain)
    match scaling.kind:
        case "linear":
            return rotary_table(config.positions, plain / scaling.factor)
        case "llama3":
            return rotary_table(config.positions, _by_wavelength(plain, scaling))
        case "yarn":
            table = rotary_table(config.positions, _by_rotations(plain, scaling, config.rope_theta))
            return table * (scaling.sharpness or 0.1 * math.log(scaling.factor) + 1.0)


def _by_wavelength(plain: Tensor, scaling: RotaryScaling) -> Tensor:
    """Llama 3.1: kept where they turn often, divided where seldom, blended in between."""
    turns = scaling.original_positions / (2 * math.pi / plain)
    smooth = (turns - scaling.low) / (scaling.high - scaling.low)
    blended = (1 - smooth) * plain / scaling.factor + smooth * plain
    scaled = torch.where(turns < scaling.low, plain / scaling.factor, plain)
    between = (turns >= scaling.low) & (turns <= scaling.high)
    return torch.where(between, blended, scaled)


def _by_rotations(plain: Tensor, scaling: RotaryScaling, theta: float) -> Tensor:
    """YaRN: a ramp over the dimensions between those that turn often and those that do not."""
    size = 2 * len(plain)

    def dimension(turns: float) -> float:
        return (
            size
            * math.log(scaling.original_positions / (turns * 2 * math.pi))
            / (2 * math.log(theta))
        )

    first = max(math.floor(dimension(_KEPT)), 0)
    last = min(math.ceil(dimension(_SCALED)), size - 1)
    ramp = (torch.arange(len(plain), dtype=torch.float32) - first) / max(last - first, 1e-3)
    scaled = ramp.clamp(0, 1)
    return plain / scaling.factor * scaled + plain * (1 - scaled)
