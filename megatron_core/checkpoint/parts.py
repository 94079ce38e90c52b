"""What a rank owns of a checkpoint, and how tensors lie on the grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from megatron_core.errors import IntegrityError
from megatron_core.optimizer.flat import BLOCK


@dataclass(frozen=True)
class Part:
    """A run of elements of one grid shard, owned by one rank.

    Args:
        kind: ``weights``, ``first`` or ``second``.
        tensor: Name of the whole tensor.
        shard: Number of the grid shard.
        offset: First element within the flattened shard, a multiple of ``BLOCK``.
        data: The elements ``[n]``, fp32, a view of the live state on any device. ``n`` is a
            multiple of ``BLOCK`` or reaches the end of the shard.
    """

    kind: str
    tensor: str
    shard: int
    offset: int
    data: Tensor

    @property
    def key(self) -> str:
        """The name of the grid shard among the leaves of the root."""
        return f"{self.kind}/{self.tensor}/{self.shard}"


def split_key(key: str) -> tuple[str, str, int]:
    """Kind, tensor and number of the grid shard that :attr:`Part.key` names."""
    kind, _, rest = key.partition("/")
    tensor, _, shard = rest.rpartition("/")
    return kind, tensor, int(shard)


class Placement(BaseModel):
    """How a tensor of ``shape`` lies on the grid: in ``shards`` equal pieces along ``axis``.

    ``axis`` is None for a tensor that is one shard.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, ...]
    axis: int | None = None
    shards: int = 1

    @model_validator(mode="after")
    def _check(self) -> Placement:
        if self.axis is None:
            if self.shards != 1:
                raise ValueError(f"{self.shards} shards need an axis")
        elif not 0 <= self.axis < len(self.shape) or self.shape[self.axis] % self.shards:
            raise ValueError(f"{list(self.shape)} has no {self.shards} shards along {self.axis}")
        return self

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """The shape of each grid shard."""
        shape = list(self.shape)
        if self.axis is not None:
            shape[self.axis] //= self.shards
        return tuple(shape)

    @property
    def shard_elements(self) -> int:
        """Elements of each grid shard."""
        return math.prod(self.shard_shape)

    def __str__(self) -> str:
        cut = "" if self.axis is None else f" in {self.shards} shards along {self.axis}"
        return f"{list(self.shape)}{cut}"


def check_part(part: Part, placements: Mapping[str, Placement]) -> None:
    """Raise IntegrityError, by name, where ``part`` is no run of blocks of a placed shard."""
    placement = placements.get(part.tensor)
    if placement is None:
        raise IntegrityError(f"{part.key} has no placement: name it among the placements")
    end, elements = part.offset + part.data.numel(), placement.shard_elements
    whole_blocks = part.offset % BLOCK == 0 and (end % BLOCK == 0 or end == elements)
    if not (0 <= part.shard < placement.shards and end <= elements and whole_blocks):
        raise IntegrityError(
            f"elements {part.offset} to {end} of {part.key} are no blocks of {BLOCK} of its "
            f"{elements}: the tensor is {placement}"
        )
    if part.data.dtype != torch.float32 or part.data.ndim != 1:
        raise IntegrityError(
            f"{part.key} is {part.data.dtype} {list(part.data.shape)}: parts are flat fp32"
        )
