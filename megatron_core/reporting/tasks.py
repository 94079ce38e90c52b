"""The tasks that models were fine-tuned for: scores beside those of the baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_core.reporting.charts import Bar, share
from megatron_core.reporting.project import Project
from megatron_core.reporting.sentences import task_sentence
from megatron_core.reporting.wording import SMALLER_IS_BETTER, count, in_order, metric_name, name

# What a task tells of its texts.
_KINDS = {
    "classification": "classes of texts",
    "similarity": "numbers for texts",
    "entities": "entities in texts",
    "relations": "relations between entities",
    "answers": "answers in texts",
    "instructions": "responses to prompts",
    "preferences": "the preferred of two responses",
}
_SHARES = 1.0  # what most metrics can reach


@dataclass(frozen=True)
class Value:
    """A score and its 95 % interval, if there is one."""

    value: float
    low: float | None
    high: float | None
    best: bool


@dataclass(frozen=True)
class TaskScores:
    """One task.

    Attributes:
        key: Its name in the recipe.
        title: The name and what the task tells.
        sentence: Who wins by the metric that counts.
        metric: The label of that metric.
        value: What the model reaches of it; None where there is no score.
        columns: Labels of all metrics.
        rows: Name and kind of each model, and its score of each metric, if any.
        seeds: Number of each seed, and what the model reaches of each metric.
        spreads: Standard deviation over the seeds of each metric, if there are several.
        details: What was read, left out or cut, in words.
    """

    key: str
    title: str
    sentence: str
    metric: str
    value: float | None
    columns: list[str]
    rows: list[tuple[str, str, list[Value | None]]]
    bars: list[Bar]
    seeds: list[tuple[str, list[float | None]]]
    spreads: list[float | None]
    details: list[str]


def read_tasks(project: Project) -> list[TaskScores]:
    """Read what stage finetune has left of each task."""
    tasks = project.manifests["finetune"].recipe["tasks"]
    return [
        _task(key, project.read("finetune", f"results/{key}.json"))
        for key in tasks
        if project.has("finetune", f"results/{key}.json")
    ]


def _task(key: str, results: Mapping[str, Any]) -> TaskScores:
    scores, counts = results["scores"], results["metric"]
    seeds = results["seeds"]
    models = in_order(list(scores), model="model")
    metrics = list(dict.fromkeys([counts, *(m for who in models for m in scores[who])]))
    model = scores["model"]
    return TaskScores(
        key=key,
        title=f"{name(key)}: {_KINDS.get(results['kind'], name(results['kind']))}",
        sentence=task_sentence(counts, scores, trainings=len(seeds)),
        metric=metric_name(counts),
        value=model[counts]["value"] if counts in model else None,
        columns=[metric_name(metric) for metric in metrics],
        rows=[
            (name(who), "model" if who == "model" else "baseline",
             [_value(metric, who, scores) for metric in metrics])
            for who in models
        ],
        bars=_bars(counts, models, scores),
        seeds=[
            (seed, [of.get(metric, {}).get("value") for metric in metrics])
            for seed, of in sorted(seeds.items(), key=lambda item: int(item[0]))
        ] if len(seeds) > 1 else [],
        spreads=[model.get(metric, {}).get("spread") for metric in metrics],
        details=list(_details(results["details"])),
    )  # fmt: skip


def _best(metric: str, scores: Mapping[str, Any]) -> float:
    found = [of[metric]["value"] for of in scores.values() if metric in of]
    return float(min(found) if metric in SMALLER_IS_BETTER else max(found))


def _value(metric: str, who: str, scores: Mapping[str, Any]) -> Value | None:
    found = scores[who].get(metric)
    if found is None:
        return None
    best = found["value"] == _best(metric, scores)
    return Value(found["value"], found.get("low"), found.get("high"), best)


def _bars(metric: str, models: list[str], scores: Mapping[str, Any]) -> list[Bar]:
    shown = [who for who in models if metric in scores[who]]
    highest = max((scores[who][metric].get("high") or 0.0 for who in shown), default=0.0)
    highest = max([highest, *(scores[who][metric]["value"] for who in shown)])
    top = _SHARES if highest <= _SHARES and metric not in SMALLER_IS_BETTER else highest
    bars = []
    for who in shown:
        value = _value(metric, who, scores)
        if value is not None:
            bars.append(
                Bar(
                    name(who), f"{value.value:.3f}", share(value.value, top),
                    "model" if who == "model" else "baseline", value.best,
                    None if value.low is None else share(value.low, top),
                    None if value.high is None else share(value.high, top),
                )
            )  # fmt: skip
    return bars


def _details(details: Mapping[str, Any]) -> Iterator[str]:
    """As "90 examples to learn from", what is 0 left out."""
    known = {"train": "examples to learn from", "test": "to score", "cut": "cut to fit"}
    for key in sorted(details, key=lambda key: ([*known, key].index(key), key)):
        found = details[key]
        if isinstance(found, str):
            yield f"{name(key)}: {found}"
        elif found:
            yield f"{count(found)} {known.get(key, name(key))}"
