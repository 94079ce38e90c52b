"""The roots of a pipeline, kept to compare later runs with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from megatron_core.errors import IntegrityError
from megatron_core.files import write_json
from megatron_core.identity import Environment, manifest_path, read_manifest


class RecordedRoots(BaseModel):
    """Roots by stage, and where and when they were made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    roots: dict[str, str]
    environment: Environment
    date: str

    @classmethod
    def read(cls, path: Path) -> RecordedRoots:
        """Read a file that ``write`` wrote.

        Raises:
            IntegrityError: it is missing or something else.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise IntegrityError(
                f"{path} is no record of roots: make one with `reforge audit --record {path}`"
            ) from error

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))


def project_roots(artifacts: Path, stages: Sequence[str]) -> RecordedRoots:
    """The roots of the stages that ``artifacts`` holds, with the environment of the last one.

    Raises:
        IntegrityError: there is no manifest of any of ``stages``.
    """
    manifests = [
        read_manifest(path)
        for stage in stages
        if (path := manifest_path(artifacts / stage)).exists()
    ]
    if not manifests:
        raise IntegrityError(f"{artifacts} holds no manifest: run `dvc repro` first")
    record = manifests[-1].record
    return RecordedRoots(
        roots={manifest.stage: manifest.root for manifest in manifests},
        environment=record.environment,
        date=record.started[:10],
    )
