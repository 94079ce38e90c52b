"""The scores of a task's trainings beside those of its baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megatron_core.config import TaskConfig
from megatron_core.evaluation.intervals import over_runs
from megatron_core.tuning.task import Scores, Task


def summarize(
    task: Task, config: TaskConfig, scores: Sequence[Scores], start: Scores
) -> dict[str, Any]:
    """What ``results/NAME.json`` holds.

    Args:
        task: What was trained.
        config: Its section.
        scores: Of the training of each seed.
        start: Of the model before; empty where it has none.

    Returns:
        ``scores[name][metric]`` of the model and the baselines, and the model's of each seed. Of
        several seeds the model's are the mean with its interval over them.
    """
    model = scores[0]
    if len(scores) > 1:
        model = {name: _over_seeds([one[name]["value"] for one in scores]) for name in model}
    return {
        "kind": config.kind,
        "metric": task.metric,
        "details": task.details,
        "scores": {"model": model, **({"start": start} if start else {}), **task.baselines()},
        "seeds": {str(config.seed + number): one for number, one in enumerate(scores)},
    }


def _over_seeds(values: Sequence[float]) -> dict[str, float]:
    """The interval says how much seeds matter, and nothing of other test examples."""
    found = over_runs(values)
    known = {"low": found.low, "high": found.high, "deviation": found.deviation}
    return {"value": found.mean, **{k: v for k, v in known.items() if v is not None}}
