"""Score models and baselines on the same tasks, in the same units."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_core.config import EvaluateConfig
from megatron_core.conversion import CERTIFICATE
from megatron_core.data.documents import read_shards
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import ReforgeError
from megatron_core.evaluation.baselines import answer_questions, fit_baselines, score_passages
from megatron_core.evaluation.harness import HarnessResult, run_harness
from megatron_core.evaluation.tasks import Passage, TaskSet, make_tasks, write_tasks
from megatron_core.files import write_json
from megatron_core.identity import list_files, merkle_root
from megatron_core.progress import track

Scores = dict[str, dict[str, float]]


def score_models(
    models: Mapping[str, Path],
    *,
    heldout: Path,
    tokenizer: Path,
    tokenized: Path,
    output: Path,
    config: EvaluateConfig,
    context: int,
    roots: Mapping[str, str],
) -> dict[str, Any]:
    """Write the tasks to ``output/tasks`` and the scores to ``output/scores.json``.

    Args:
        models: Hugging Face folders with certificates, by the name their scores get.
        heldout: Shards of held-out documents.
        tokenizer: Tokenizer folder that all models share.
        tokenized: Training datasets, for the n-gram baselines.
        output: Folder to fill.
        config: What to score and how.
        context: Tokens a model sees at most; best what it was trained on.
        roots: Further content roots to record beside those of models and tasks.

    Returns:
        The scores: ``perplexity[source][model]`` with a source ``all``, and
        ``multiple_choice[model]`` with a model ``chance``.

    Raises:
        CorpusError: there are too few held-out documents, or no training tokens.
        ReforgeError: a model's tokenizer is not ``tokenizer``.
    """
    tasks = make_tasks(read_shards(heldout), config)
    write_tasks(tasks, output / "tasks")
    encoder = Tokenizer.load(tokenizer)
    tokens = {
        source: [encoder.encode(passage.text) for passage in passages]
        for source, passages in tasks.passages.items()
    }
    scores = _Scores(tasks, tokens)
    baselines = fit_baselines(tokenized, encoder)
    for name, baseline in track(list(baselines.items()), "scoring n-gram baselines"):
        end = encoder.end_of_document
        found = {source: score_passages(baseline, texts, end) for source, texts in tokens.items()}
        scores.add(name, found, answer_questions(baseline, tasks.questions, encoder))
    certificates = {}
    raw = {}
    for name, folder in models.items():
        result = run_harness(folder, tasks, config, context=context, name=name)
        _check_tokens(result, tokens, folder)
        scores.add(name, result.log_likelihoods, result.questions)
        raw[name] = {**result.perplexity, "questions": result.questions}
        certificates[name] = _read_certificate(folder)
    files = list_files(output / "tasks")
    written = {
        "documents": {source: len(passages) for source, passages in tasks.passages.items()},
        "lm_eval": raw,
        "multiple_choice": scores.with_chance(config.choices),
        "perplexity": scores.perplexity,
        "questions": len(tasks.questions),
        "roots": {
            **roots,
            **certificates,
            "tasks": merkle_root({path: entry.sha256 for path, entry in files.items()}),
        },
    }
    write_json(output / "scores.json", written)
    return written


class _Scores:
    """Scores of several models on one set of tasks."""

    def __init__(self, tasks: TaskSet, tokens: Mapping[str, Sequence[Sequence[int]]]) -> None:
        self._tasks, self._tokens = tasks, tokens
        self.perplexity: dict[str, Scores] = {source: {} for source in [*tasks.passages, "all"]}
        self.choices: Scores = {}

    def add(
        self,
        name: str,
        log_likelihoods: Mapping[str, Sequence[float]],
        answers: Mapping[str, float],
    ) -> None:
        """Add one model: log-likelihoods of the passages by source, its accuracies if any."""
        sources = list(self._tasks.passages)
        for source, parts in {**{one: [one] for one in sources}, "all": sources}.items():
            self.perplexity[source][name] = perplexities(
                [score for part in parts for score in log_likelihoods[part]],
                [passage for part in parts for passage in self._tasks.passages[part]],
                sum(len(ids) for part in parts for ids in self._tokens[part]),
            )
        if not answers:
            return
        accuracy, count = answers["acc"], len(self._tasks.questions)
        self.choices[name] = {
            "accuracy": accuracy,
            "accuracy_norm": answers["acc_norm"],
            "accuracy_stderr": math.sqrt(accuracy * (1 - accuracy) / max(count - 1, 1)),
        }

    def with_chance(self, choices: int) -> Scores:
        """The accuracies beside that of a guess; empty when nothing was asked."""
        return {**self.choices, "chance": {"accuracy": 1 / choices}} if self.choices else {}


def perplexities(
    log_likelihoods: Sequence[float], passages: Sequence[Passage], tokens: int
) -> dict[str, float]:
    """The natural log-likelihoods of ``passages`` as bits per byte and as perplexities.

    Bytes are those of UTF-8, words are cut at white space as lm-eval does.
    """
    loss = -math.fsum(log_likelihoods)
    size = sum(len(passage.text.encode()) for passage in passages)
    words = sum(len(re.split(r"\s+", passage.text)) for passage in passages)
    return {
        "bits_per_byte": loss / size / math.log(2),
        "token_perplexity": math.exp(loss / tokens),
        "word_perplexity": math.exp(loss / words),
    }


def _check_tokens(
    result: HarnessResult, tokens: Mapping[str, Sequence[Sequence[int]]], folder: Path
) -> None:
    """Perplexities compare only when every model predicts the same tokens."""
    if result.tokens != tokens:
        raise ReforgeError(
            f"the tokenizer in {folder} gives other tokens than the pipeline's: run "
            "`reforge convert` again"
        )


def _read_certificate(folder: Path) -> str:
    """The root of the checkpoint that the model in ``folder`` was made from."""
    path = folder / CERTIFICATE
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["checkpoint"])
    except (OSError, ValueError, KeyError) as error:
        raise ReforgeError(f"{path} cannot be read: run `reforge convert` again") from error
