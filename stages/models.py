"""The language models that the trainings of a project leave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_core.config import (
    FinetuneConfig,
    InstructionsTask,
    PreferencesTask,
    SoftPromptConfig,
)


@dataclass(frozen=True)
class TrainedModel:
    """A language model of a project.

    Attributes:
        name: In the scores and on the page.
        folder: Of the training in the artifact of `stage`, and of the model in that of `convert`.
        stage: That trained it.
        prompted: Whether a soft prompt stands before each text, which no other library knows.
        task: That it was trained for; None where it only reads text.
        start: What the training of the task began with, as the recipe says it.
    """

    name: str
    folder: str
    stage: str
    prompted: bool = False
    task: str | None = None
    start: str | None = None

    def below(self, artifacts: Path) -> Path:
        """Its folder, which `ModelFolder.open` knows."""
        path = artifacts / self.stage
        return path if self.stage == "pretrain" else path / self.folder


def language_models(config: FinetuneConfig) -> Iterator[TrainedModel]:
    """The pretrained model, the adapted one, and those of tasks that leave one."""
    yield TrainedModel("pretrained", "pretrain", "pretrain")
    if config.continued is not None:
        yield TrainedModel("adapted", "continued", "finetune")
    for name, task in config.tasks.items():
        if isinstance(task, InstructionsTask | PreferencesTask):
            prompted = isinstance(task.adapter, SoftPromptConfig)
            for folder in task.trainings(name):
                yield TrainedModel(folder, folder, "finetune", prompted, name, task.start)
