"""Read what the stages left in a project."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from megatron_core.config import STAGES
from megatron_core.errors import IntegrityError
from megatron_core.identity import Manifest, manifest_path, read_manifest


@dataclass(frozen=True)
class Project:
    """The folders ``artifacts`` and ``metrics`` of a project.

    Every reader raises IntegrityError, with the stage to run again, when a file is missing or
    is not what the stage writes.
    """

    artifacts: Path
    metrics: Path

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """Manifest of each stage before the report, in the order of the pipeline."""
        return {
            stage: read_manifest(manifest_path(self.artifacts / stage)) for stage in STAGES[:-1]
        }

    def numbers(self, stage: str) -> dict[str, Any]:
        """The metrics of ``stage``."""
        found = self._parse(self.metrics / f"{stage}.json", stage)
        if not isinstance(found, dict):
            raise IntegrityError(f"{self.metrics / stage}.json: run `reforge {stage}` again")
        return found

    def read(self, stage: str, name: str) -> Any:
        """A JSON file of the artifact of ``stage``."""
        return self._parse(self.artifacts / stage / name, stage)

    def lines(self, stage: str, name: str) -> list[dict[str, Any]]:
        """A file of JSON lines of the artifact of ``stage``; [] when there is none."""
        path = self.artifacts / stage / name
        if not path.exists():
            return []
        try:
            with path.open(encoding="utf-8") as file:
                return [json.loads(line) for line in file]
        except (OSError, ValueError) as error:
            raise IntegrityError(
                f"{path} is not JSON lines: run `reforge {stage}` again"
            ) from error

    def has(self, stage: str, name: str) -> bool:
        """Whether the artifact of ``stage`` holds the file ``name``."""
        return (self.artifacts / stage / name).exists()

    @staticmethod
    def _parse(path: Path, stage: str) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise IntegrityError(f"{path} does not exist: run `reforge {stage}`") from error
        except (OSError, ValueError) as error:
            raise IntegrityError(f"{path} is not JSON: run `reforge {stage}` again") from error
