"""The scores, with the baselines beside them, and sentences that say who wins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_core.reporting.charts import Bar, share
from megatron_core.reporting.memorization import Memorization, read_memorization
from megatron_core.reporting.project import Project
from megatron_core.reporting.sentences import (
    masked_sentence,
    multiple_choice_sentence,
    perplexity_sentence,
)
from megatron_core.reporting.tasks import TaskScores, read_tasks
from megatron_core.reporting.wording import in_order, kind, name, percent


@dataclass(frozen=True)
class Score:
    """One model's score of one task; ``best`` when no other is better."""

    model: str
    kind: str
    bits_per_byte: float
    low: float
    high: float
    token_perplexity: float
    best: bool


@dataclass(frozen=True)
class Perplexity:
    """Bits per byte of held-out text, by source and model."""

    sentence: str
    models: list[tuple[str, str]]
    documents: dict[str, int]
    scores: dict[str, list[Score]]
    bars: dict[str, list[Bar]]


@dataclass(frozen=True)
class Masked:
    """How well encoders find hidden tokens; the numbers are those of ``scores.json``."""

    sentence: str
    tokens: int
    sequences: int
    rows: list[dict[str, Any]]
    bars: list[Bar]


@dataclass(frozen=True)
class MultipleChoice:
    """Accuracy on questions; ``chance`` is what guessing gets."""

    sentence: str
    questions: int
    chance: float
    bars: list[Bar]


@dataclass(frozen=True)
class NamedMetric:
    """One metric of a task of lm-eval, of each model: its value and 95 % interval, if any."""

    task: str
    metric: str
    documents: int
    chance: float | None
    values: list[tuple[str, float, float | None, float | None]]


@dataclass(frozen=True)
class Continuation:
    """What each model made of one prompt."""

    prompt: str
    texts: list[tuple[str, str]]


@dataclass(frozen=True)
class Evaluation:
    """The sections on scores and on samples.

    Decoders have a ``perplexity``, encoders are ``masked``.
    """

    perplexity: Perplexity | None
    masked: Masked | None
    tasks: list[TaskScores]
    multiple_choice: MultipleChoice | None
    named: list[NamedMetric]
    memorization: Memorization | None
    continuations: list[Continuation]


def read_evaluation(project: Project) -> Evaluation:
    """Read the sections from the stages evaluate and finetune."""
    scores = project.read("evaluate", "scores.json")
    has_samples = project.has("evaluate", "generations.json")
    return Evaluation(
        perplexity=_perplexity(scores) if scores["perplexity"] else None,
        masked=_masked(scores.get("masked", {})),
        tasks=read_tasks(project),
        multiple_choice=_multiple_choice(scores),
        named=list(_named(scores.get("tasks", {}))),
        memorization=read_memorization(scores),
        continuations=(
            _continuations(project.read("evaluate", "generations.json")) if has_samples else []
        ),
    )


def _perplexity(scores: Mapping[str, Any]) -> Perplexity:
    found = scores["perplexity"]
    documents = {"all": sum(scores["documents"].values()), **scores["documents"]}
    sources = ["all", *(source for source in found if source != "all")]
    models = in_order(list(found["all"]))
    top = max(of["bits_per_byte_high"] for by_model in found.values() for of in by_model.values())
    table: dict[str, list[Score]] = {}
    for source in sources:
        least = min(of["bits_per_byte"] for of in found[source].values())
        table[source] = [
            Score(name(model), kind(model), of["bits_per_byte"], of["bits_per_byte_low"],
                  of["bits_per_byte_high"], of["token_perplexity"], of["bits_per_byte"] == least)
            for model in models
            for of in [found[source][model]]
        ]  # fmt: skip
    return Perplexity(
        sentence=perplexity_sentence(found),
        models=[(name(model), kind(model)) for model in models],
        documents={name(source): number for source, number in documents.items()},
        scores={name(source): rows for source, rows in table.items()},
        bars={
            name(source): [
                Bar(row.model, f"{row.bits_per_byte:.3f}", share(row.bits_per_byte, top), row.kind,
                    row.best, share(row.low, top), share(row.high, top))
                for row in rows
            ]
            for source, rows in table.items()
        },
    )  # fmt: skip


def _masked(found: Mapping[str, Any]) -> Masked | None:
    if not found:
        return None
    models = in_order(list(found))
    best = max(of["accuracy"] for of in found.values())
    first = found[models[0]]
    return Masked(
        sentence=masked_sentence(found),
        tokens=first["tokens"],
        sequences=first["sequences"],
        rows=[{**found[model], "model": name(model)} for model in models],
        bars=[
            Bar(name(model), percent(of["accuracy"]), share(of["accuracy"], 1), "model",
                of["accuracy"] == best, share(of["accuracy_low"], 1),
                share(of["accuracy_high"], 1))
            for model in models
            for of in [found[model]]
        ],
    )  # fmt: skip


def _multiple_choice(scores: Mapping[str, Any]) -> MultipleChoice | None:
    found = {m: of for m, of in scores["multiple_choice"].items() if m != "chance"}
    if not found:
        return None
    chance = scores["multiple_choice"]["chance"]["accuracy"]
    best = max(of["accuracy"] for of in found.values())
    bars = []
    for model in in_order(list(found)):
        accuracy, low, high = (found[model][f"accuracy{end}"] for end in ("", "_low", "_high"))
        bars.append(
            Bar(name(model), percent(accuracy), share(accuracy, 1), kind(model), accuracy == best,
                share(low, 1), share(high, 1))
        )  # fmt: skip
    return MultipleChoice(
        multiple_choice_sentence(found, chance), scores["questions"], chance, bars
    )


def _named(tasks: Mapping[str, Any]) -> Iterator[NamedMetric]:
    for task, of in tasks.items():
        models = in_order(list(of["models"]))
        for metric, first in of["models"][models[0]].items():
            values = [(name(m), of["models"][m][metric]) for m in models]
            yield NamedMetric(
                task, metric, first["documents"],
                of.get("chance") if metric == "acc" else None,
                [(m, v["value"], v.get("low"), v.get("high")) for m, v in values],
            )  # fmt: skip


def _continuations(lines: Sequence[Mapping[str, str]]) -> list[Continuation]:
    prompts = list(dict.fromkeys(line["prompt"] for line in lines))
    return [
        Continuation(
            prompt,
            [(name(line["model"]), line["text"]) for line in lines if line["prompt"] == prompt],
        )
        for prompt in prompts
    ]
