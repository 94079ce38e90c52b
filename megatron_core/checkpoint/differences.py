"""Where two checkpoints differ first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megatron_core.checkpoint.description import Checkpoint
from megatron_core.checkpoint.loading import CheckpointReader
from megatron_core.checkpoint.parts import Placement, split_key


@dataclass(frozen=True)
class Difference:
    """The first tensor that differs, its first differing element, and how far apart they are.

    Args:
        tensor: ``kind/name`` of the tensor.
        shard: Its first grid shard that differs.
        element: Index of the first differing element within that shard.
        index: Its index within the whole tensor.
        ours: Its value in the one checkpoint.
        theirs: Its value in the other.
        ulps: fp32 numbers from the one to the other.
        elements: How many elements of the tensor differ.
        tensors: How many tensors differ.
    """

    tensor: str
    shard: int
    element: tuple[int, ...]
    index: tuple[int, ...]
    ours: float
    theirs: float
    ulps: int
    elements: int
    tensors: int


def first_difference(ours: Path, theirs: Path) -> Difference | str | None:
    """The first tensor, in name order, whose bits differ between two checkpoints.

    Returns:
        ``None`` when all are equal, a sentence when the checkpoints cannot be compared tensor by
        tensor, or the difference.

    Raises:
        IntegrityError: one of them is damaged.
    """
    ours_reader, theirs_reader = CheckpointReader(ours), CheckpointReader(theirs)
    a, b = ours_reader.checkpoint, theirs_reader.checkpoint
    said = _not_comparable(a, b)
    if said:
        return said
    differing = sorted(split_key(key) for key, leaf in a.leaves.items() if leaf != b.leaves[key])
    if not differing:
        return _other_than_tensors(a, b)
    kind, name, shard = differing[0]
    unequal = 0
    for number in [number for *tensor, number in differing if tensor == [kind, name]]:
        key = f"{kind}/{name}/{number}"
        x, y = ours_reader.shard(key), theirs_reader.shard(key)
        places = (_bits(x) != _bits(y)).nonzero()
        unequal += len(places)
        if number == shard:
            element = tuple(int(i) for i in places[0])
            here, there = x[element], y[element]
    return Difference(
        tensor=f"{kind}/{name}",
        shard=shard,
        element=element,
        index=_within_whole(element, shard, a.tensors[name]),
        ours=float(here),
        theirs=float(there),
        ulps=int((_ordered(here) - _ordered(there)).abs()),
        elements=unequal,
        tensors=len({key[:2] for key in differing}),
    )


def _not_comparable(a: Checkpoint, b: Checkpoint) -> str | None:
    """Why two checkpoints cannot be compared shard by shard, if so."""
    for name in sorted(a.tensors.keys() & b.tensors.keys()):
        if a.tensors[name] != b.tensors[name]:
            return f"{name} is {a.tensors[name]} here, {b.tensors[name]} there"
    odd = sorted(key.rpartition("/")[0] for key in a.leaves.keys() ^ b.leaves.keys())
    return f"they hold different tensors: {', '.join(odd[:5])}" if odd else None


def _other_than_tensors(a: Checkpoint, b: Checkpoint) -> str | None:
    """How two checkpoints of the same tensors differ, if they do."""
    if a.step != b.step:
        return f"steps {a.step} and {b.step} hold the same tensors"
    for name in sorted(a.scalars.keys() | b.scalars.keys()):
        x, y = a.scalars.get(name), b.scalars.get(name)
        if x != y:
            return f"they hold the same tensors, but {name} is {x} here, {y} there"
    return None


def _within_whole(element: tuple[int, ...], shard: int, placement: Placement) -> tuple[int, ...]:
    """The index within the whole tensor of ``element`` of its grid shard ``shard``."""
    if placement.axis is None:
        return element
    axis = placement.axis
    start = shard * placement.shard_shape[axis]
    return (*element[:axis], start + element[axis], *element[axis + 1 :])


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int32).long()


def _ordered(x: Tensor) -> Tensor:
    """fp32 as int64 in the order of the reals, to count ULPs; both zeros are 0."""
    bits = _bits(x)
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
