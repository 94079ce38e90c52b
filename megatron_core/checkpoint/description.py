"""What ``checkpoint.json`` says of a checkpoint, and whether its files are as it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from megatron_core.checkpoint.parts import Placement
from megatron_core.errors import IntegrityError
from megatron_core.identity import Environment, FileEntry, hash_file, hash_json, merkle_root

DESCRIPTION = "checkpoint.json"


class Checkpoint(BaseModel):
    """A checkpoint described, as ``checkpoint.json`` inside its folder holds it.

    ``leaves`` are hashes of the grid shards, named ``kind/tensor/shard``. The root is over them,
    the step and the scalars, so it says nothing of files or of the layout that wrote them.
    ``seal`` is a hash over all the rest of the description.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    root: str
    leaves: dict[str, str]
    tensors: dict[str, Placement]
    scalars: dict[str, float]
    files: dict[str, FileEntry]
    run: str
    model: dict[str, Any]
    layout: dict[str, int | str]
    environment: Environment
    seal: str = ""

    def sealed(self) -> Checkpoint:
        """The same with the seal that belongs to it."""
        content = self.model_dump(mode="json", exclude={"seal"})
        return self.model_copy(update={"seal": hash_json(content)})


def checkpoint_root(leaves: Mapping[str, str], step: int, scalars: Mapping[str, float]) -> str:
    """The Merkle root over the grid shards, the step and the scalars."""
    named = {f"scalars/{name}": float(value).hex() for name, value in scalars.items()}
    return merkle_root({**leaves, **named, "step": str(step)})


def read_checkpoint(path: Path, *, verify: bool = False) -> Checkpoint:
    """The description of the checkpoint in folder ``path``, its files present in their sizes.

    Args:
        path: Folder of the checkpoint.
        verify: Also hash every file. Loading hashes what it reads, so this is for whoever loads
            nothing.

    Raises:
        IntegrityError: a file is missing, torn or altered, by name.
    """
    description = path / DESCRIPTION
    try:
        checkpoint = Checkpoint.model_validate_json(description.read_bytes())
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is not a checkpoint: it has no {DESCRIPTION}") from error
    except (OSError, ValidationError) as error:
        raise IntegrityError(f"{description} was torn or altered: delete {path}") from error
    if checkpoint_root(checkpoint.leaves, checkpoint.step, checkpoint.scalars) != checkpoint.root:
        raise IntegrityError(f"{description} was altered: its root is not that of its leaves")
    if checkpoint.sealed().seal != checkpoint.seal:
        raise IntegrityError(f"{description} was altered: its seal is broken")
    for name, entry in checkpoint.files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != entry.size:
            raise IntegrityError(
                f"{file} is missing or torn: delete {path} and resume from an earlier checkpoint"
            )
    if verify:
        for name in checkpoint.files:
            check_file(path, checkpoint, name)
    return checkpoint


def check_file(path: Path, checkpoint: Checkpoint, name: str) -> None:
    """Hash file ``name`` of the checkpoint at ``path``; IntegrityError if it was altered."""
    if hash_file(path / name) != checkpoint.files[name].sha256:
        raise IntegrityError(
            f"{path / name} was altered: delete {path} and resume from an earlier checkpoint"
        )
