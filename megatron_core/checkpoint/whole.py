"""Checkpoints of whole tensors from one process, for tools and small models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_core.checkpoint.description import DESCRIPTION, Checkpoint, checkpoint_root
from megatron_core.checkpoint.digests import block_digests, combine_digests
from megatron_core.checkpoint.parts import Part, Placement
from megatron_core.checkpoint.ranks import Ranks
from megatron_core.checkpoint.saver import CheckpointSaver
from megatron_core.chunks import Chunk, write_chunks
from megatron_core.errors import ReforgeError
from megatron_core.files import staged_folder, write_json
from megatron_core.identity import Environment, FileEntry, hash_file
from megatron_core.optimizer.flat import BLOCK

# Elements written as one chunk, 16 MiB, as the trainer writes them.
_CHUNK = 256 * BLOCK


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


def save_weights(
    path: Path,
    weights: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    run: str,
    model: Mapping[str, Any],
) -> Checkpoint:
    """Save weights alone, as of a model that comes from elsewhere: step 0, no moments.

    One tensor is in memory at a time. Any training can start from it, on any grid.

    Args:
        path: Folder to create, replaced if it exists.
        weights: Whole fp32 tensors by name; each is asked for once, in the order of ``shapes``.
        shapes: Of all of them.
        run: Where the weights come from.
        model: What is needed to build the model again.

    Raises:
        ReforgeError: the disk refuses, or a tensor is not as announced.
    """
    leaves: dict[str, str] = {}
    tensor = "", torch.empty(0)

    def read(chunk: Chunk) -> Tensor:
        nonlocal tensor
        name = chunk.tensor.split("/")[1]
        if tensor[0] != name:
            tensor = "", torch.empty(0)  # let the last one go before the next is read
            tensor = name, _flat(weights[name], name, shapes[name])
            leaves[chunk.tensor] = _leaf(tensor[1], name, shapes[name])
        (start,), (size,) = chunk.offsets, chunk.sizes
        return tensor[1][start : start + size]

    with staged_folder(path) as staging:
        folder = staging / "weights"
        write_chunks(folder, [c for name, shape in shapes.items() for c in _cut(name, shape)], read)
        files = {
            file.relative_to(staging).as_posix(): FileEntry(
                size=file.stat().st_size, sha256=hash_file(file)
            )
            for file in sorted(folder.iterdir())
        }
        ordered = dict(sorted(leaves.items()))
        checkpoint = Checkpoint(
            step=0,
            root=checkpoint_root(ordered, 0, {}),
            leaves=ordered,
            tensors={name: Placement(shape=shape) for name, shape in sorted(shapes.items())},
            scalars={},
            files=files,
            run=run,
            model=dict(model),
            layout={},
            environment=Environment.current(),
        ).sealed()
        write_json(staging / DESCRIPTION, checkpoint.model_dump(mode="json"))
    return checkpoint


def weights_root(
    weights: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    group: dist.ProcessGroup | None = None,
) -> str:
    """The root of the checkpoint that :func:`save_weights` would write; one tensor in memory.

    Args:
        weights: Whole fp32 tensors by name.
        shapes: Of all of them.
        group: A gloo group of ranks that ask together and share the work; None for one process.

    Raises:
        ReforgeError: a tensor is not as announced.
    """
    ranks = Ranks(group)

    def share() -> dict[str, str]:
        names = list(shapes)[ranks.rank :: ranks.count]
        return {
            _key(n): _leaf(_flat(weights[n], n, shapes[n]), n, shapes[n]) for n in names
        }  # fmt: skip

    def root(shares: list[dict[str, str]]) -> str:
        leaves = {key: leaf for part in shares for key, leaf in part.items()}
        return checkpoint_root(dict(sorted(leaves.items())), 0, {})

    return ranks.together(share, root)


def _key(name: str) -> str:
    """The leaf of a tensor that is one grid shard."""
    return f"weights/{name}/0"


def _leaf(flat: Tensor, name: str, shape: tuple[int, ...]) -> str:
    digests = [(0, block_digests(flat))]
    return cast(str, combine_digests(_key(name), Placement(shape=shape), digests))


def _cut(name: str, shape: tuple[int, ...]) -> list[Chunk]:
    """The chunks of a tensor that is one grid shard."""
    count = math.prod(shape)
    return [
        Chunk(_key(name), (count,), (start,), (min(_CHUNK, count - start),), torch.float32)
        for start in range(0, count, _CHUNK)
    ]


def _flat(tensor: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
        raise ReforgeError(
            f"{name} is {tensor.dtype} {list(tensor.shape)}, not float32 {list(shape)}"
        )
    return tensor.detach().reshape(-1)
