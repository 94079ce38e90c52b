"""Which function prepares which task."""

from __future__ import annotations

from megatron_core.config import (
    AnswersTask,
    ClassificationTask,
    EntitiesTask,
    InstructionsTask,
    PreferencesTask,
    RelationsTask,
    SimilarityTask,
    TaskConfig,
)
from megatron_core.tuning.answers import answers
from megatron_core.tuning.entities import entities
from megatron_core.tuning.instructions import instructions
from megatron_core.tuning.preferences import preferences
from megatron_core.tuning.relations import relations
from megatron_core.tuning.task import Place, Task
from megatron_core.tuning.texts import classification, similarity


def open_task(config: TaskConfig, place: Place) -> Task:
    """Read and encode the examples of a task.

    Raises:
        CorpusError: a file is missing or wrong, or there is nothing to learn or to score.
        ConfigError: the sequences are too short.
    """
    match config:
        case ClassificationTask():
            return classification(config, place)
        case SimilarityTask():
            return similarity(config, place)
        case EntitiesTask():
            return entities(config, place)
        case RelationsTask():
            return relations(config, place)
        case AnswersTask():
            return answers(config, place)
        case InstructionsTask():
            return instructions(config, place)
        case PreferencesTask():
            return preferences(config, place)
