"""Where each tensor lies in one flat buffer, and where the buffer may be cut."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Elements that are owned, hashed and normed together: a shard is cut between ranks at multiples.
BLOCK = 16_384

# Tensors start on 64-byte boundaries, so that elementwise kernels meet each in the same phase.
_ALIGNMENT = 16


@dataclass(frozen=True)
class Run:
    """Part of one tensor that lies within a cut of the buffer.

    Attributes:
        name: The tensor.
        offset: First element within the flattened tensor, a multiple of ``BLOCK``.
        start: Where that lies in the cut.
        stop: Where it ends there.
    """

    name: str
    offset: int
    start: int
    stop: int


class FlatLayout:
    """Places named tensors in a flat buffer, matrices first.

    Weight decay then covers one leading slice, ``[:decayed]``, and never a norm or a bias.

    Attributes:
        shapes: By name, in the order of the buffer.
        offsets: First element of each.
        size: Elements of the buffer.
        decayed: Elements of the matrices.
        block_ranges: Numbers of the blocks of each, counted through the buffer.
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
        self.block_ranges: dict[str, range] = {}
        blocks = 0
        for name, shape in self.shapes.items():
            first, blocks = blocks, blocks + -(-shape.numel() // BLOCK)
            self.block_ranges[name] = range(first, blocks)

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """The tensors inside ``buffer [size]``, sharing its storage."""
        return {
            name: buffer[self.offsets[name] : self.offsets[name] + shape.numel()].view(shape)
            for name, shape in self.shapes.items()
        }

    def blocks(self) -> Iterator[Run]:
        """All blocks of all tensors, in the order of the buffer; places are in the buffer."""
        for name, shape in self.shapes.items():
            start, size = self.offsets[name], shape.numel()
            for offset in range(0, size, BLOCK):
                stop = min(offset + BLOCK, size)
                yield Run(name, offset, start + offset, start + stop)

    def cut(self, parts: int) -> list[int]:
        """``parts + 1`` bounds that cut the buffer between blocks, as evenly as these allow."""
        starts = [block.start for block in self.blocks()] + [self.size]
        bounds = [0]
        for part in range(1, parts):
            wanted = self.size * part // parts
            after = bisect_left(starts, wanted)
            nearest = min(starts[max(after - 1, 0) : after + 1], key=lambda s: abs(s - wanted))
            bounds.append(max(nearest, bounds[-1]))
        return [*bounds, self.size]

    def runs(self, start: int, stop: int) -> list[Run]:
        """The tensors, or their parts, that lie in ``buffer[start:stop]``, a cut."""
        found = []
        for name, shape in self.shapes.items():
            first = max(self.offsets[name], start)
            last = min(self.offsets[name] + shape.numel(), stop)
            if first < last:
                found.append(Run(name, first - self.offsets[name], first - start, last - start))
        return found
