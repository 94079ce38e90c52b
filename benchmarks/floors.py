"""The least time that arithmetic and memory allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Rates:
    """FLOP/s of products and bytes per second of memory, measured or of a data sheet."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Cost:
    """What cannot be done without.

    Attributes:
        flops: Of products; a multiplication and an addition count as two.
        bytes: Read and written when every operand is moved once.
    """

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def floors(self, rates: Rates) -> tuple[float, float]:
        """Seconds by arithmetic and by bytes; the larger one cannot be beaten."""
        return self.flops / rates.flops, self.bytes / rates.bytes


SQUARE = 2048  # rows of the product that a machine's rate is measured by
SQUARE_FLOPS = 2.0 * SQUARE**3


def square_product(
    device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Callable[[int], torch.Tensor]:
    """A product of two matrices ``[SQUARE, SQUARE]``, of ``SQUARE_FLOPS``."""
    a, b = (torch.randn(SQUARE, SQUARE, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda _: torch.mm(a, b, out=out)


def moving(count: float, device: str = "cpu") -> Callable[[int], torch.Tensor]:
    """A copy that reads and writes ``count`` bytes in all."""
    source = torch.zeros(max(1, int(count) // 8), device=device)
    target = torch.empty_like(source)
    return lambda _: target.copy_(source)
