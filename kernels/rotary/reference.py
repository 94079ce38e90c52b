"""Rotary position embedding (Su et al., 2021), in the half-split form of Llama's checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_frequencies(size: int, theta: float) -> Tensor:
    """Radians per position of each pair of dimensions: fp32 ``[size / 2]``."""
    return 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size)


def rotary_table(positions: int, frequencies: Tensor) -> Tensor:
    """Cosines and sines of every position: fp32 ``[2, positions, size]``.

    ``frequencies`` are fp32 ``[size / 2]``, in radians per position.
    """
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
    angles = torch.cat([angles, angles], dim=-1)
    return torch.stack([angles.cos(), angles.sin()])


def apply_rotary(x: Tensor, table: Tensor) -> Tensor:
    """Rotate ``x [length, batch, heads, size]``.

    ``table`` is ``[2, length, size]``, or ``[2, length, batch, size]`` for positions that differ.
    """
    table = table.to(x.dtype)
    table = table[:, :, None, None] if table.ndim == 3 else table[:, :, :, None]
    cosine, sine = table.unbind()
    first, second = x.chunk(2, dim=-1)
    rotated: Tensor = x * cosine + torch.cat([-second, first], dim=-1) * sine
    return rotated
