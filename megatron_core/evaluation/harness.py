"""Run lm-eval on an exported model, on tasks made here and without a network."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from rich.progress import Progress

from megatron_core.config import EvaluateConfig
from megatron_core.errors import ReforgeError
from megatron_core.evaluation.tasks import QUESTIONS, TaskSet, task_name
from megatron_core.progress import progress_bar


@dataclass(frozen=True)
class HarnessResult:
    """What lm-eval found for one model.

    Attributes:
        log_likelihoods: natural logarithm of the probability of each passage, by source.
        perplexity: lm-eval's metrics of the passages, by source.
        questions: lm-eval's metrics of the questions, empty when there are none.
        tokens: the tokens of each passage as lm-eval saw them, by source.
    """

    log_likelihoods: dict[str, list[float]]
    perplexity: dict[str, dict[str, float]]
    questions: dict[str, float]
    tokens: dict[str, list[list[int]]]


class _Model(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's Hugging Face model with one progress bar instead of one per batch."""

    def __init__(self, bar: Progress, description: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.model.config.use_cache = False  # a cache that nothing reads costs a tenth
        self._bar = bar
        self._task = bar.add_task(description, total=None)

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        answers: list[tuple[float, bool]] = super()._loglikelihood_tokens(
            requests, disable_tqdm=True, override_bs=override_bs
        )
        self._bar.advance(self._task, len(requests))
        return answers

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        answers: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        return answers


def run_harness(
    folder: Path, tasks: TaskSet, config: EvaluateConfig, *, context: int, name: str
) -> HarnessResult:
    """Score the Hugging Face model in ``folder`` on ``tasks`` with lm-eval, on the CPU in fp32.

    A passage starts after the beginning-of-sequence token and is scored in consecutive windows
    of ``context`` tokens. Each window sees the last token of the one before, the last
    window as many as make it as long as the others.

    Args:
        folder: Model and tokenizer.
        tasks: What to score.
        config: Batch size and threads.
        context: Tokens the model sees at most.
        name: Of the model, for the progress bar.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with _quiet(), progress_bar() as bar:
            model = _Model(
                bar, f"scoring {name}", pretrained=str(folder), device="cpu", dtype="float32",
                batch_size=config.batch_size, max_length=context, add_bos_token=False,
            )  # fmt: skip
            found = evaluate(
                model,
                {"tasks": _lm_eval_tasks(tasks)},
                bootstrap_iters=0,  # standard errors of perplexities are drawn at random
                log_samples=True,
            )
            tokens = {
                source: [model.tok_encode(passage.text) for passage in passages]
                for source, passages in tasks.passages.items()
            }
    finally:
        torch.set_num_threads(threads)
    return _collect(found, tasks, tokens)


def _lm_eval_tasks(tasks: TaskSet) -> dict[str, ConfigurableTask]:
    """The tasks as lm-eval's own; the rows come from memory, so that no path is recorded."""
    made = {}
    for source, passages in tasks.passages.items():
        # Neighbours are padded to one length, and rolling windows are batched as they come.
        by_length = sorted(passages, key=lambda passage: len(passage.text))
        made[task_name(source)] = {
            "output_type": "loglikelihood_rolling",
            "custom_dataset": partial(_rows, [asdict(passage) for passage in by_length]),
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
    found: dict[str, Any] | None, tasks: TaskSet, tokens: dict[str, list[list[int]]]
) -> HarnessResult:
    if found is None:
        raise ReforgeError("lm-eval gave no results: evaluate runs in one process, not on ranks")
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
def _quiet() -> Iterator[None]:
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
