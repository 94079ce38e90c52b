"""The manifest beside an artifact: its files, its root, and the record of the run that made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from megatron_core.errors import IntegrityError
from megatron_core.files import write_json
from megatron_core.identity.environment import Environment
from megatron_core.identity.hashing import hash_file, merkle_root


class FileEntry(BaseModel):
    """One file of an artifact; ``size`` in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str


class RunRecord(BaseModel):
    """What happened when the artifact was made; nothing in it enters the root."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    started: str
    seconds: float
    layout: dict[str, int | str]
    environment: Environment


class Manifest(BaseModel):
    """An artifact described: two artifacts are the same if and only if their roots are.

    ``content`` names what the root is computed over when that is not the files themselves:
    a checkpoint is its tensors, however they are cut into files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    root: str
    files: dict[str, FileEntry]
    content: dict[str, str] | None
    inputs: dict[str, str]
    recipe: dict[str, Any]
    record: RunRecord

    @classmethod
    def of(
        cls,
        folder: Path,
        *,
        stage: str,
        inputs: Mapping[str, str],
        recipe: Mapping[str, Any],
        record: RunRecord,
        content: Mapping[str, str] | None = None,
    ) -> Manifest:
        """Describe ``folder`` as it is on disk."""
        files = list_files(folder)
        leaves = content or {path: entry.sha256 for path, entry in files.items()}
        return cls(
            stage=stage,
            root=merkle_root(leaves),
            files=files,
            content=dict(content) if content else None,
            inputs=dict(inputs),
            recipe=dict(recipe),
            record=record,
        )

    def write(self, path: Path) -> None:
        """Write the manifest to ``path``, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))


def manifest_path(artifact: Path) -> Path:
    """Where the manifest of ``artifact`` lies: beside it."""
    return artifact.with_name(f"{artifact.name}.manifest.json")


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        IntegrityError: it is missing or is no manifest.
    """
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} does not exist: run the stage that makes it") from error
    except (OSError, ValidationError, ValueError) as error:
        raise IntegrityError(
            f"{path} is not a manifest ({type(error).__name__}): run its stage again"
        ) from error


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Every file below ``folder`` by its relative path, in sorted order, with size and hash."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(
            size=path.stat().st_size, sha256=hash_file(path)
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def verify_files(folder: Path, manifest: Manifest, *, hashes: bool = True) -> list[str]:
    """What of ``folder`` is not as ``manifest`` says: one line per missing, altered or added file.

    With ``hashes=False`` only presence and size are checked, which costs no reading.
    """
    problems = []
    on_disk = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    for name, entry in manifest.files.items():
        path = on_disk.pop(name, None)
        if path is None:
            problems.append(f"{folder / name} is missing")
        elif path.stat().st_size != entry.size:
            problems.append(f"{path} has {path.stat().st_size} bytes, recorded were {entry.size}")
        elif hashes and hash_file(path) != entry.sha256:
            problems.append(f"{path} was altered: its hash is not the recorded one")
    problems += [f"{path} was added after the manifest" for path in sorted(on_disk.values())]
    return problems
