"""Save, load and verify one checkpoint."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from megatron_core.errors import IntegrityError, ReforgeError
from megatron_core.files import replace_folder, sync_folder, write_json
from megatron_core.identity import (
    Environment,
    FileEntry,
    hash_bytes,
    hash_file,
    list_files,
    merkle_root,
)

_DESCRIPTION = "checkpoint.json"
_WEIGHTS = "weights/"


class Checkpoint(BaseModel):
    """A checkpoint described, as ``checkpoint.json`` inside its folder holds it.

    ``leaves`` are hashes of the raw bytes of each grid shard, named ``kind/tensor/shard``; the
    root is over them and the step, so it says nothing of files or of the layout that wrote them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    root: str
    leaves: dict[str, str]
    files: dict[str, FileEntry]
    run: str
    model: dict[str, Any]
    layout: dict[str, int]
    environment: Environment


def tensor_leaves(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """A hash of dtype, shape and raw bytes per tensor, named by its only grid shard."""
    leaves = {}
    for name, tensor in tensors.items():
        held = tensor.detach().cpu().contiguous()
        content = held.flatten().view(torch.uint8).numpy().data
        label = f"{held.dtype} {list(held.shape)} {hash_bytes(content)}"
        leaves[f"{name}/0"] = hash_bytes(label.encode())
    return leaves


def save_checkpoint(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    step: int,
    run: str,
    model: Mapping[str, Any],
    layout: Mapping[str, int],
) -> Checkpoint:
    """Write ``tensors`` to the folder ``path``; called on every rank, returns on all of them.

    The files are written beside, synced and hashed; only then does the folder get its name.

    Args:
        path: Folder to create, replaced if it exists.
        tensors: ``{"weights/…" | "first/…" | "second/…": tensor}``, whole on every rank.
        step: Optimizer steps done.
        run: Identity of the run, checked before resuming.
        model: What is needed to build the model again.
        layout: Ranks it was written from, for the record.

    Raises:
        ReforgeError: the disk refuses.
    """
    distributed = dist.is_initialized()
    first = not distributed or dist.get_rank() == 0
    staging = path.with_name(f".{path.name}.partial")
    if first:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    if distributed:
        dist.barrier()
    try:
        with _quiet():
            save(dict(tensors), checkpoint_id=staging, no_dist=not distributed)
    except CheckpointException as error:
        reasons = {str(failure[0]) for failure in error.failures.values()}
        raise ReforgeError(
            f"the checkpoint {path} could not be written ({'; '.join(sorted(reasons))}): free the "
            "disk or make it writable; those before it are whole, and the next run resumes there"
        ) from error
    checkpoint = None
    if first:
        leaves = tensor_leaves(tensors)
        checkpoint = Checkpoint(
            step=step,
            root=merkle_root({**leaves, "step": str(step)}),
            leaves=leaves,
            files=list_files(staging),
            run=run,
            model=dict(model),
            layout=dict(layout),
            environment=Environment.current(),
        )
        write_json(staging / _DESCRIPTION, checkpoint.model_dump(mode="json"))
        sync_folder(staging)
        replace_folder(staging, path)
        sync_folder(path)
    if distributed:
        dist.barrier()
    return checkpoint or read_checkpoint(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """The description of the checkpoint in folder ``path``, its files checked against it.

    Raises:
        IntegrityError: a file is missing, torn or altered, by name.
    """
    description = path / _DESCRIPTION
    try:
        checkpoint = Checkpoint.model_validate_json(description.read_bytes())
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is not a checkpoint: it has no {_DESCRIPTION}") from error
    except (OSError, ValidationError) as error:
        raise IntegrityError(f"{description} was torn or altered: delete {path}") from error
    if merkle_root({**checkpoint.leaves, "step": str(checkpoint.step)}) != checkpoint.root:
        raise IntegrityError(f"{description} was altered: its root is not that of its leaves")
    for name, entry in checkpoint.files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != entry.size:
            raise IntegrityError(
                f"{file} is missing or torn: delete {path} and resume from an earlier checkpoint"
            )
        if hash_file(file) != entry.sha256:
            raise IntegrityError(
                f"{file} was altered: delete {path} and resume from an earlier checkpoint"
            )
    return checkpoint


def load_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """Fill ``tensors`` in place from the checkpoint at ``path``, on any number of ranks.

    Raises:
        IntegrityError: the checkpoint is damaged, or lacks one of the tensors.
    """
    checkpoint = read_checkpoint(path)
    missing = [name for name in tensors if f"{name}/0" not in checkpoint.leaves]
    if missing:
        raise IntegrityError(
            f"{path} has no tensor {', '.join(missing[:5])}: it is of another model"
        )
    with _quiet():
        load(dict(tensors), checkpoint_id=path, no_dist=True)
    return checkpoint


def load_weights(path: Path) -> dict[str, Tensor]:
    """The model's weights, by parameter name, fp32 on the CPU; tied ones under their owner."""
    tensors = allocate(path, _WEIGHTS)
    load_tensors(path, tensors)
    return {name.removeprefix(_WEIGHTS): tensor for name, tensor in tensors.items()}


def verify_checkpoint(path: Path) -> Checkpoint:
    """Check files, tensors and root of the checkpoint at ``path``.

    Raises:
        IntegrityError: what was recorded is not what is there.
    """
    tensors = allocate(path, "")
    checkpoint = load_tensors(path, tensors)
    leaves = tensor_leaves(tensors)
    for name, leaf in checkpoint.leaves.items():
        if leaves.get(name) != leaf:
            raise IntegrityError(f"{path}: tensor {name} is not the one that was recorded")
    if merkle_root({**leaves, "step": str(checkpoint.step)}) != checkpoint.root:
        raise IntegrityError(f"{path}: its root is not the one that was recorded")
    return checkpoint


def allocate(path: Path, prefix: str) -> dict[str, Tensor]:
    """Empty tensors for what the checkpoint stores under ``prefix``."""
    read_checkpoint(path)  # the metadata is a pickle: only a file we wrote is opened
    metadata = FileSystemReader(path).read_metadata().state_dict_metadata
    return {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in metadata.items()
        if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }


@contextmanager
def _quiet() -> Any:
    """Silence the notices of torch.distributed.checkpoint about running without ranks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
