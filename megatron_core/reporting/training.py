"""The training runs: what they cost, how their losses went."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_core.errors import IntegrityError
from megatron_core.reporting.charts import LineChart, Point, line_chart
from megatron_core.reporting.project import Project
from megatron_core.reporting.wording import name

# Of the losses of tasks.
_UNITS = {
    "classification": "nats per example",
    "similarity": "squared error per example",
    "entities": "nats per word",
    "relations": "nats per example",
    "answers": "nats per window",
    "instructions": "nats per token of a response",
    "preferences": "nats per pair",
}
_FINAL = 10  # steps whose mean is called the final training loss


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        unit: Of the loss: nats per token, or what the task has.
        counted: What is counted by ``seen``: tokens or sequences.
        seen: How many the run saw, repeats counted.
        loss: Mean training loss of the last steps, in nats.
        heldout_first, heldout_last: First and last held-out loss, in nats, with their steps.
        charts: Loss, learning rate, norm of the gradient.
    """

    key: str
    title: str
    unit: str
    counted: str
    steps: int
    seen: int
    loss: float
    heldout_first: Point | None
    heldout_last: Point | None
    charts: list[LineChart] = field(repr=False)

    @property
    def perplexity(self) -> float | None:
        """Held-out perplexity at the end; None where the loss is not one of next tokens."""
        if self.heldout_last is None or self.unit != "nats per token":
            return None
        return math.exp(self.heldout_last[1])


@dataclass(frozen=True)
class Training:
    """The section on training; ``model`` is the configuration that is pretrained."""

    parameters: int
    model: dict[str, Any]
    runs: list[Run]


def read_training(project: Project) -> Training:
    """Read the section from the stages pretrain and finetune."""
    pretrain = project.manifests["pretrain"].recipe
    encoder = pretrain["model"]["kind"] == "encoder"
    unit = "nats per hidden token" if encoder else "nats per token"
    log = project.lines("pretrain", "steps.jsonl")
    brought = pretrain.get("steps") == 0  # the model was taken as it is
    runs = [] if brought else [_run("pretrain", "Pretraining", unit, pretrain, log)]
    runs += _finetuned(project, unit)
    return Training(
        parameters=project.numbers("pretrain")["parameters"], model=pretrain["model"], runs=runs
    )


def _finetuned(project: Project, unit: str) -> Iterator[Run]:
    recipe = project.manifests["finetune"].recipe
    sections = [] if recipe["continued"] is None else [("continued", recipe["continued"])]
    for key, section in sections:
        log = project.lines("finetune", f"{key}/steps.jsonl")
        yield _run(key, "Continued pretraining", unit, section, log)
    for task, section in recipe["tasks"].items():
        first, repeats = section["seed"], section["repeats"]
        for seed in range(first, first + repeats):
            key = task if repeats == 1 else f"{task}-{seed}"
            title = name(task) if repeats == 1 else f"{name(task)}, seed {seed}"
            log = project.lines("finetune", f"{key}/steps.jsonl")
            yield _run(key, f"Task {title}", _UNITS[section["kind"]], section, log)


def _run(
    key: str, title: str, unit: str, recipe: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> Run:
    if not records:
        raise IntegrityError(
            f"the steps.jsonl of {title.lower()} is missing or empty: run "
            f"`reforge {'pretrain' if key == 'pretrain' else 'finetune'}` again"
        )
    curve = {
        field: [(float(r["step"]), float(r[field])) for r in records if field in r]
        for field in ("loss", "heldout_loss", "learning_rate", "gradient_norm")
    }
    heldout = curve["heldout_loss"]
    last = [loss for _, loss in curve["loss"][-_FINAL:]]
    sequences = len(records) * recipe["batch"]["sequences"]
    reads = "kind" not in recipe  # it is trained on text, not for a task
    return Run(
        key=key,
        title=title,
        unit=unit,
        counted="tokens" if reads else "sequences",
        steps=len(records),
        seen=sequences * recipe["sequence_length"] if reads else sequences,
        loss=sum(last) / len(last),
        heldout_first=heldout[0] if heldout else None,
        heldout_last=heldout[-1] if heldout else None,
        charts=[
            line_chart(
                "Loss",
                unit,
                [("training", "line", curve["loss"]), ("held out", "dots", heldout)],
            ),
            line_chart(
                "Learning rate", f"peak {max(rate for _, rate in curve['learning_rate']):.3g}",
                [("learning rate", "line", curve["learning_rate"])],
                from_zero=True, ticks=2,
            ),
            line_chart(
                "Norm of the gradient", "before clipping",
                [("norm", "line", curve["gradient_norm"])], from_zero=True, ticks=2,
            ),
        ],
    )  # fmt: skip
