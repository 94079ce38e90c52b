"""Where two checkpoints differ first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megatron_core.checkpoint.store import allocate, load_tensors, read_checkpoint


@dataclass(frozen=True)
class Difference:
    """The first tensor that differs, its first differing element, and how far apart they are."""

    tensor: str
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
    """
    a, b = read_checkpoint(ours), read_checkpoint(theirs)
    if a.leaves.keys() != b.leaves.keys():
        odd = sorted(a.leaves.keys() ^ b.leaves.keys())
        return f"they hold different tensors: {', '.join(odd[:5])}"
    differing = sorted(name for name in a.leaves if a.leaves[name] != b.leaves[name])
    if not differing:
        return None if a.step == b.step else f"steps {a.step} and {b.step} hold the same tensors"
    name = differing[0].rpartition("/")[0]
    x, y = _load_one(ours, name), _load_one(theirs, name)
    if x.shape != y.shape or x.dtype != y.dtype:
        return f"{name} is {x.dtype} {list(x.shape)} here, {y.dtype} {list(y.shape)} there"
    unequal = _bits(x) != _bits(y)
    where = tuple(int(i) for i in unequal.nonzero()[0])
    distance = int((_ordered(x)[where] - _ordered(y)[where]).abs())
    return Difference(
        tensor=name,
        index=where,
        ours=float(x[where]),
        theirs=float(y[where]),
        ulps=distance,
        elements=int(unequal.sum()),
        tensors=len(differing),
    )


def _load_one(path: Path, name: str) -> Tensor:
    tensors = {name: allocate(path, name)[name]}
    load_tensors(path, tensors)
    return tensors[name]


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int32).long()


def _ordered(x: Tensor) -> Tensor:
    """fp32 as int64 in the order of the reals, to count ULPs; both zeros are 0."""
    bits = _bits(x)
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
