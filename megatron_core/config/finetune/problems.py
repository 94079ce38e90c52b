"""What the section cannot see alone."""

from __future__ import annotations

from collections.abc import Iterator

from megatron_core.config.adapters import AdapterConfig, SoftPromptConfig
from megatron_core.config.corpus import IngestConfig
from megatron_core.config.finetune import (
    ChapterExamples,
    ClassificationTask,
    EntitiesTask,
    FinetuneConfig,
    InstructionsTask,
    PreferencesTask,
    TaskConfig,
    TaskSettings,
)
from megatron_core.config.model import ModelConfig
from megatron_core.config.problem import Problem, source_problems
from megatron_core.config.training import TrainingConfig

# Folders beside those of tasks, and what models of tasks are scored beside.
_TAKEN = (
    "continued", "pretrain", "results", "pretrained", "adapted", "chance", "unigram", "bigram",
    "trigram",
)  # fmt: skip


def finetune_problems(
    config: FinetuneConfig, ingest: IngestConfig, model: ModelConfig
) -> Iterator[Problem]:
    """Of adapters and tasks; ``model`` is the one that is pretrained."""
    path = "finetune.tasks"
    if config.continued is not None and config.continued.adapter is not None:
        yield from _adapter_problems("finetune.continued.adapter", config.continued.adapter, model)
    for name, task in config.tasks.items():
        if name in _TAKEN:
            yield Problem(f"{path}.{name}", "must have another name: this one is taken")
        yield from _task_problems(f"{path}.{name}", task, model)
        yield from _start_problems(f"{path}.{name}.start", name, task, config)
        if isinstance(task, ClassificationTask) and isinstance(task.examples, ChapterExamples):
            source, sources = task.examples.source, ingest.sources
            yield from source_problems(f"{path}.{name}.examples.source", source, "icd10cm", sources)
    yield from _process_problems(config)


def _task_problems(path: str, task: TaskConfig, model: ModelConfig) -> Iterator[Problem]:
    prompt = 0
    if task.adapter is not None:
        yield from _adapter_problems(f"{path}.adapter", task.adapter, model)
        if isinstance(task.adapter, SoftPromptConfig):
            prompt = task.adapter.tokens
    if task.sequence_length - prompt < 8:
        yield Problem(
            f"{path}.sequence_length",
            f"must leave 8 tokens beside the {prompt} of adapter.tokens", task.sequence_length,
        )  # fmt: skip
    if isinstance(task, InstructionsTask | PreferencesTask) and model.kind == "encoder":
        yield Problem(f"{path}.kind", "is of decoders alone: an encoder gives no text", task.kind)
    if task.grid.context > 1 and not isinstance(task, EntitiesTask | InstructionsTask):
        yield Problem(
            f"{path}.grid.context", f"must be 1: a task of kind {task.kind} sees its texts whole",
            task.grid.context,
        )  # fmt: skip
    if isinstance(task, PreferencesTask) and task.batch.microbatch % 2:
        yield Problem(
            f"{path}.batch.microbatch", "must be even: sequences come in pairs",
            task.batch.microbatch,
        )  # fmt: skip


def _adapter_problems(path: str, adapter: AdapterConfig, model: ModelConfig) -> Iterator[Problem]:
    if isinstance(adapter, SoftPromptConfig):
        return
    if len(set(adapter.matrices)) < len(adapter.matrices):
        yield Problem(f"{path}.matrices", "must name each matrix once", adapter.matrices)
    for matrix in adapter.matrices:
        if matrix == "gate" and not model.gated:
            yield Problem(f"{path}.matrices", "must not name gate: the model has none", matrix)
        elif matrix in ("gate", "up", "down") and model.experts is not None:
            yield Problem(
                f"{path}.matrices", f"must not name {matrix}: experts stay as they are", matrix
            )


def _start_problems(
    path: str, name: str, task: TaskSettings, config: FinetuneConfig
) -> Iterator[Problem]:
    if task.start is None:
        return
    names = list(config.tasks)
    continued = ["continued"] if config.continued is not None else []
    allowed = ["pretrain", *continued, *names[: names.index(name)]]
    if task.start not in allowed:
        yield Problem(path, f"must be one that is trained before: {', '.join(allowed)}", task.start)
    elif task.start in config.tasks:
        before = config.tasks[task.start]
        if not isinstance(before, InstructionsTask | PreferencesTask):
            yield Problem(
                path, f"must name a task that leaves a language model, not one of kind "
                f"{before.kind}", task.start,
            )  # fmt: skip
        elif isinstance(before.adapter, SoftPromptConfig):
            yield Problem(path, "must not name a task that trains a soft prompt", task.start)
        elif before.repeats > 1:
            yield Problem(path, "must name a task that is trained once, not repeated", task.start)


def _process_problems(config: FinetuneConfig) -> Iterator[Problem]:
    runs: dict[str, TrainingConfig] = {
        **({"continued": config.continued} if config.continued is not None else {}),
        **{f"tasks.{name}": task for name, task in config.tasks.items()},
    }
    first, *others = runs or [""]
    for other in others:
        for field in ("device", "threads"):
            wanted, found = getattr(runs[first], field), getattr(runs[other], field)
            if found != wanted:
                yield Problem(
                    f"finetune.{other}.{field}",
                    f"must be finetune.{first}.{field} = {wanted}: all run in the same processes",
                    found,
                )
