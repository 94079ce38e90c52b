"""Run lm-eval on a model: on tasks made here, and on its own by name."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from datasets import Dataset
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate

from megatron_core.errors import ReforgeError
from megatron_core.evaluation.catalogue import TaskDict
from megatron_core.evaluation.intervals import Interval, bootstrap, mean_interval
from megatron_core.evaluation.tasks import QUESTIONS, TaskSet, task_name
from megatron_core.identity import hash_bytes

Metrics = dict[str, dict[str, Any]]
_FEW_SHOT_SEED = 1234  # lm-eval's own


@dataclass(frozen=True)
class HarnessResult:
    """What lm-eval found for one model.

    Attributes:
        log_likelihoods: natural logarithm of the probability of each passage, by source.
        perplexity: lm-eval's metrics of the passages, by source.
        questions: lm-eval's metrics of the questions, empty when there are none.
        tokens: the tokens of each passage as lm-eval saw them, by source.
        named: Of each task that was asked for by name its metrics: ``value``, ``higher_is_better``
            and, with an interval, ``low``, ``high`` and its ``kind``.
        groups: lm-eval's metrics of groups of such tasks.
        data: Of each such task the hash of its ``documents`` and of all its ``requests``, which
            also show the examples and the wording.
        chance: Accuracy of a guess, of each such task that lets choose.
    """

    log_likelihoods: dict[str, list[float]]
    perplexity: dict[str, dict[str, float]]
    questions: dict[str, float]
    tokens: dict[str, list[list[int]]]
    named: dict[str, Metrics] = field(default_factory=dict)
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    data: dict[str, dict[str, str]] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)


def run_harness(
    model: TemplateLM, tasks: TaskSet, named: TaskDict, *, limit: int | None = None, seed: int = 0
) -> HarnessResult:
    """Score ``model`` on ``tasks`` and on the ``named`` ones of lm-eval.

    A passage starts after the token that texts begin after, and is scored in consecutive windows
    of the model's context. Each window sees the last token of the one before, the last window as
    many as make it as long as the others.

    Args:
        model: Ours or an exported one.
        tasks: Made here.
        named: As ``load_tasks`` gives them.
        limit: First documents of each named task; None is all.
        seed: Of the intervals' resamples.
    """
    for task in named["tasks"].values():
        task.set_fewshot_seed(_FEW_SHOT_SEED)  # else a second model would be shown other examples
    with quiet():
        own = evaluate(
            model,
            {"tasks": _lm_eval_tasks(tasks)},
            bootstrap_iters=0,  # standard errors of perplexities are drawn at random
            log_samples=True,
        )
        others = evaluate(model, named, limit=limit, bootstrap_iters=0) if named["tasks"] else {}
        tokens = {
            source: [model.tok_encode(passage.text) for passage in passages]
            for source, passages in tasks.passages.items()
        }
    if own is None or others is None:
        raise ReforgeError("lm-eval gave no results: another launcher than ours started the ranks")
    result = _collect(own, tasks, tokens)
    if not others:
        return result
    for name, task in named["tasks"].items():
        samples = others["samples"][name]
        result.named[name] = _metrics(others["results"][name], samples, task, seed)
        result.data[name] = _data(samples)
        if task.OUTPUT_TYPE == "multiple_choice":
            guesses = [1 / len(row["arguments"]) for row in samples]
            result.chance[name] = math.fsum(guesses) / len(guesses)
    for name, values in others.get("groups", {}).items():
        result.groups[name] = _numbers(values)
    return result


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and "," in key and "_stderr" not in key
    }


def _metrics(
    values: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], task: Any, seed: int
) -> Metrics:
    """A task's metrics with their intervals over documents."""
    made: Metrics = {}
    for key, value in _numbers(values).items():
        metric, _, kind = key.partition(",")
        items = [s[metric] for s in samples if s["filter"] == kind and metric in s]
        made[key if kind != "none" else metric] = {
            "value": value,
            "higher_is_better": bool(task.higher_is_better().get(metric, True)),
            "documents": len(items),
            **_interval(items, value, task.aggregation().get(metric), seed),
        }
    return made


def _interval(items: Sequence[Any], value: float, aggregate: Any, seed: int) -> dict[str, Any]:
    found: Interval | None = None
    numbers = all(isinstance(item, int | float) for item in items)
    if len(items) < 2 or aggregate is None:
        return {}
    if numbers and abs(sum(items) / len(items) - value) < 1e-9:
        found = mean_interval([float(item) for item in items], seed)
    else:
        found = bootstrap(items, aggregate, seed)
    return asdict(found) if found else {}


def _data(samples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    first = samples[0]["filter"]
    rows = sorted((s for s in samples if s["filter"] == first), key=lambda s: int(s["doc_id"]))
    return {
        "documents": _hash([row["doc"] for row in rows]),
        "requests": _hash([row["arguments"] for row in rows]),
    }


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hash_bytes(text.encode())


def _lm_eval_tasks(tasks: TaskSet) -> dict[str, ConfigurableTask]:
    """The tasks as lm-eval's own; the rows come from memory, so that no path is recorded."""
    made = {}
    for source, passages in tasks.passages.items():
        made[task_name(source)] = {
            "output_type": "loglikelihood_rolling",
            "custom_dataset": partial(_rows, [asdict(passage) for passage in passages]),
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [_metric(name) for name in _PERPLEXITIES],
        }
    if tasks.questions:
        made[QUESTIONS] = {
            "output_type": "multiple_choice",
            "custom_dataset": partial(_rows, [asdict(question) for question in tasks.questions]),
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "answer",
            "doc_to_choice": "choices",
            "metric_list": [_metric("acc"), _metric("acc_norm")],
        }
    return {
        name: ConfigurableTask(config={"task": name, "test_split": "test", **task})
        for name, task in made.items()
    }


_PERPLEXITIES = {
    "word_perplexity": "weighted_perplexity",
    "byte_perplexity": "weighted_perplexity",
    "bits_per_byte": "bits_per_byte",
}


def _metric(name: str) -> dict[str, Any]:
    return {
        "metric": name,
        "aggregation": _PERPLEXITIES.get(name, "mean"),
        "higher_is_better": name not in _PERPLEXITIES,
    }


def _rows(rows: list[dict[str, Any]], **_: Any) -> dict[str, Dataset]:
    return {"test": Dataset.from_list(rows)}


def _collect(
    found: Mapping[str, Any], tasks: TaskSet, tokens: dict[str, list[list[int]]]
) -> HarnessResult:
    log_likelihoods, perplexity = {}, {}
    for source, passages in tasks.passages.items():
        name = task_name(source)
        samples = {sample["doc"]["id"]: sample for sample in found["samples"][name]}
        log_likelihoods[source] = [
            float(samples[passage.id]["filtered_resps"][0]) for passage in passages
        ]
        perplexity[source] = {
            metric: float(found["results"][name][f"{metric},none"]) for metric in _PERPLEXITIES
        }
    answers = found["results"].get(QUESTIONS, {})
    questions = {
        metric: float(answers[f"{metric},none"])
        for metric in ("acc", "acc_norm")
        if f"{metric},none" in answers
    }
    return HarnessResult(log_likelihoods, perplexity, questions, tokens)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what lm-eval and its libraries say about settings that are meant as they are."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
