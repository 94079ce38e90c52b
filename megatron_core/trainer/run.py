"""The folder of a training run: what it is, where it stands, what it logged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_core.files import write_text
from megatron_core.identity import hash_json


@dataclass(frozen=True)
class TrainingRun:
    """A run is known by its recipe and inputs, so only the same training resumes from it.

    Attributes:
        folder: ``…/<name>-<identity>``, outside what DVC deletes.
        identity: Hash over the recipe's section and the roots of the inputs.
        model: What is needed to build the model again.
    """

    folder: Path
    identity: str
    model: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        folder: Path,
        name: str,
        *,
        recipe: Mapping[str, Any],
        inputs: Mapping[str, str],
        model: Mapping[str, Any],
    ) -> TrainingRun:
        """The run of this recipe on these inputs, below ``folder``."""
        identity = hash_json({"name": name, "recipe": recipe, "inputs": inputs, "model": model})
        return cls(folder / f"{name}-{identity[:12]}", identity, dict(model))

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def steps(self) -> Path:
        """JSON lines, one per step: loss, learning rate, gradient norm."""
        return self.folder / "steps.jsonl"

    def read_steps(self, up_to: int) -> list[dict[str, Any]]:
        """The logged steps 1 … ``up_to``; a line torn by a kill is none."""
        if not self.steps.exists():
            return []
        records = []
        for line in self.steps.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break
            if record["step"] > up_to:
                break
            records.append(record)
        return records

    def cut_steps(self, up_to: int) -> list[dict[str, Any]]:
        """Forget steps after ``up_to``, which will be taken again."""
        records = self.read_steps(up_to)
        write_text(self.steps, "".join(json.dumps(record) + "\n" for record in records))
        return records

    def log_step(self, record: Mapping[str, Any]) -> None:
        """Append one step."""
        with self.steps.open("a") as file:
            file.write(json.dumps(record) + "\n")
