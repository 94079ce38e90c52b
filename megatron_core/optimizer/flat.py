"""Where each tensor lies in one flat buffer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# Elements that are owned, hashed and normed together: a shard is cut between ranks at multiples.
BLOCK = 16_384

# Tensors start on 64-byte boundaries, so that elementwise kernels meet each in the same phase.
_ALIGNMENT = 16


class FlatLayout:
    """Places named tensors in a flat fp32 buffer, matrices first.

    Weight decay then covers one leading slice, ``[:decayed]``, and never a norm or a bias.
    """

    def __init__(self, shapes: Mapping[str, torch.Size]) -> None:
        self.shapes = dict(sorted(shapes.items(), key=lambda item: (len(item[1]) < 2, item[0])))
        self.offsets: dict[str, int] = {}
        end = 0
        self.decayed = 0
        for name, shape in self.shapes.items():
            self.offsets[name] = end
            end += -(-shape.numel() // _ALIGNMENT) * _ALIGNMENT
            if len(shape) >= 2:
                self.decayed = end
        self.size = end

    def zeros(self, device: torch.device) -> Tensor:
        """A new fp32 buffer of this layout."""
        return torch.zeros(self.size, dtype=torch.float32, device=device)

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """The tensors inside ``buffer``, sharing its storage."""
        return {
            name: buffer[self.offsets[name] : self.offsets[name] + shape.numel()].view(shape)
            for name, shape in self.shapes.items()
        }
