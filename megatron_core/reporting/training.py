"""The training runs: what they cost, how their losses went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_core.errors import IntegrityError
from megatron_core.reporting.charts import LineChart, Point, line_chart
from megatron_core.reporting.project import Project

_FINAL = 10  # steps whose mean is called the final training loss


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        per: What a loss in nats is per: a token or a description.
        seen: Tokens (or descriptions) the run saw, repeats counted.
        loss: Mean training loss of the last steps, in nats.
        heldout_first, heldout_last: First and last held-out loss, in nats, with their steps.
        charts: Loss, learning rate, norm of the gradient.
    """

    key: str
    title: str
    per: str
    steps: int
    seen: int
    loss: float
    heldout_first: Point | None
    heldout_last: Point | None
    charts: list[LineChart] = field(repr=False)

    @property
    def perplexity(self) -> float | None:
        """Held-out perplexity at the end."""
        return math.exp(self.heldout_last[1]) if self.heldout_last else None


@dataclass(frozen=True)
class Training:
    """The section on training; ``model`` is the decoder's configuration."""

    parameters: int
    model: dict[str, Any]
    runs: list[Run]


def read_training(project: Project) -> Training:
    """Read the section from the stages pretrain and finetune."""
    pretrain = project.manifests["pretrain"].recipe
    finetune = project.manifests["finetune"].recipe
    log = project.lines("pretrain", "steps.jsonl")
    runs = [
        _run("pretrain", "Pretraining", "token", pretrain, log),
        *(
            _run(key, title, per, finetune[key], project.lines("finetune", f"{key}/steps.jsonl"))
            for key, title, per in (
                ("continued", "Continued pretraining", "token"),
                ("classification", "Classifier", "description"),
            )
            if finetune[key] is not None
        ),
    ]  # fmt: skip
    return Training(
        parameters=project.numbers("pretrain")["parameters"], model=pretrain["model"], runs=runs
    )


def _run(
    key: str, title: str, per: str, recipe: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> Run:
    if not records:
        raise IntegrityError(
            f"the steps.jsonl of {title.lower()} is missing or empty: run "
            f"`reforge {'pretrain' if key == 'pretrain' else 'finetune'}` again"
        )
    curve = {
        name: [(float(r["step"]), float(r[name])) for r in records if name in r]
        for name in ("loss", "heldout_loss", "learning_rate", "gradient_norm")
    }
    heldout = curve["heldout_loss"]
    last = [loss for _, loss in curve["loss"][-_FINAL:]]
    examples = len(records) * recipe["batch"]["sequences"]
    return Run(
        key=key,
        title=title,
        per=per,
        steps=len(records),
        seen=examples * recipe["sequence_length"] if per == "token" else examples,
        loss=sum(last) / len(last),
        heldout_first=heldout[0] if heldout else None,
        heldout_last=heldout[-1] if heldout else None,
        charts=[
            line_chart(
                "Loss",
                f"nats per {per}",
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
