"""A machine in numbers: what its arithmetic, its memory and its links reach."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from megatron_core.config import Section

Precision = Literal["fp32", "bf16", "fp16"]
BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2}


class Peak(Section):
    """Dense peak of the vendor's data sheet."""

    fp32: float = Field(gt=0, description="TFLOP/s, without TF32")
    bf16: float = Field(gt=0, description="TFLOP/s")
    fp16: float = Field(gt=0, description="TFLOP/s")

    def at(self, precision: Precision) -> float:
        """FLOP/s at ``precision``."""
        return {"fp32": self.fp32, "bf16": self.bf16, "fp16": self.fp16}[precision] * 1e12


class Matmul(Section):
    """Matrix products: tiles of the result are dealt to units, in waves."""

    efficiency: float = Field(gt=0, le=1, description="Of the peak, with all units busy")
    units: int = Field(ge=1, description="Tiles computed at once")
    tile_rows: int = Field(ge=1, description="Rows of a tile")
    tile_columns: int = Field(ge=1, description="Columns of a tile")
    attention: float = Field(gt=0, le=1, description="Of the peak, fused attention")


class Memory(Section):
    """Memory of one rank."""

    gib: float = Field(gt=0, description="GiB")
    reserved_gib: float = Field(
        ge=0, description="GiB set aside: context, communication buffers, fragmentation"
    )
    bandwidth: float = Field(gt=0, description="GB/s of the data sheet")
    efficiency: float = Field(gt=0, le=1, description="Of it, elementwise kernels")


class Link(Section):
    """What one rank sends, and receives at the same time."""

    bandwidth: float = Field(gt=0, description="GB/s that large collectives reach")
    latency: float = Field(ge=0, description="Microseconds of a message")


class Hardware(Section):
    """A cluster of equal nodes."""

    source: str = Field(description="Where each number is from")
    peak: Peak = Field(description="Arithmetic of one rank")
    matmul: Matmul = Field(description="What products reach of it")
    memory: Memory = Field(description="Memory of one rank")
    launch: float = Field(ge=0, description="Microseconds of any kernel, however small")
    ranks_per_node: int = Field(ge=1, description="GPUs of a node; processes on a CPU")
    inside: Link = Field(description="Between the ranks of a node")
    between: Link = Field(description="Between nodes")

    def product(
        self, rows: int, columns: int, depth: int, precision: Precision, *, count: int = 1
    ) -> float:
        """Seconds of ``count`` products ``[rows, depth] @ [depth, columns]`` in one kernel.

        The last wave of tiles keeps all units waiting, and no product is faster than its
        operands and its result are moved.
        """
        m = self.matmul
        tiles = count * math.ceil(rows / m.tile_rows) * math.ceil(columns / m.tile_columns)
        waves = math.ceil(tiles / m.units)
        computed = 2.0 * waves * m.units * m.tile_rows * m.tile_columns * depth
        moved = count * BYTES[precision] * (rows * depth + depth * columns + rows * columns)
        reached = self.peak.at(precision) * m.efficiency
        return max(computed / reached, self.moving(moved)) + self.launch * 1e-6

    def fused_attention(self, flops: float, precision: Precision) -> float:
        """Seconds of one attention kernel."""
        reached = self.peak.at(precision) * self.matmul.attention
        return flops / reached + self.launch * 1e-6

    def moving(self, count: float) -> float:
        """Seconds to read and write ``count`` bytes of memory in all."""
        return count / (self.memory.bandwidth * 1e9 * self.memory.efficiency)

    @property
    def usable(self) -> float:
        """Bytes of memory for tensors."""
        return (self.memory.gib - self.memory.reserved_gib) * 2**30
