"""Checkpoints of whole tensors from one process, for tools and small models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from megatron_core.checkpoint.description import Checkpoint
from megatron_core.checkpoint.parts import Part, Placement
from megatron_core.checkpoint.saver import CheckpointSaver


def save_checkpoint(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    step: int,
    run: str,
    model: Mapping[str, Any],
    layout: Mapping[str, int | str],
    scalars: Mapping[str, float] | None = None,
) -> Checkpoint:
    """Save ``{"kind/name": tensor}`` from this process alone, each as one shard, and wait.

    Args:
        path: Folder to create, replaced if it exists.
        tensors: Whole tensors, fp32.
        step: Optimizer steps done.
        run: Identity of the run.
        model: What is needed to build the model again.
        layout: Ranks it was written from, for the record.
        scalars: Other state.

    Raises:
        ReforgeError: the disk refuses.
    """
    parts, placements = [], {}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        parts.append(Part(kind, name, 0, 0, tensor.detach().reshape(-1)))
        placements[name] = Placement(shape=tuple(tensor.shape))
    saver = CheckpointSaver(None)
    saver.save(
        path, parts, placements, step=step, run=run, model=model, layout=layout, scalars=scalars
    )
    return cast(Checkpoint, saver.wait())
