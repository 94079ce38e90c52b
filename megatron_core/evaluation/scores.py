"""Score models and baselines on the same tasks, in the same units."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import ReforgeError
from megatron_core.evaluation.baselines import answer_questions, fit_baselines, score_passages
from megatron_core.evaluation.harness import HarnessResult
from megatron_core.evaluation.intervals import bits_per_byte, exact, ratio_bootstrap
from megatron_core.evaluation.tasks import Passage, TaskSet
from megatron_core.progress import track

Scores = dict[str, dict[str, Any]]


class Scoreboard:
    """Scores of several models on one set of tasks, and of the n-gram baselines beside them."""

    def __init__(
        self, tasks: TaskSet, tokens: Mapping[str, Sequence[Sequence[int]]], seed: int
    ) -> None:
        """
        Args:
            tasks: What is scored.
            tokens: Of each passage, by source, as the tokenizer that all share gives them.
            seed: Of the intervals' resamples.
        """
        self._tasks, self._tokens, self._seed = tasks, tokens, seed
        self.perplexity: dict[str, Scores] = {source: {} for source in [*tasks.passages, "all"]}
        self.choices: Scores = {}
        self.named: dict[str, Any] = {}

    @classmethod
    def with_baselines(
        cls, tasks: TaskSet, tokenizer: Tokenizer, tokenized: Path, seed: int
    ) -> Scoreboard:
        """With n-gram models of the datasets in ``tokenized``.

        Raises:
            CorpusError: there are no training tokens, or of another tokenizer.
        """
        tokens = {
            source: [tokenizer.encode(passage.text) for passage in passages]
            for source, passages in tasks.passages.items()
        }
        board = cls(tasks, tokens, seed)
        end, baselines = tokenizer.end_of_document, fit_baselines(tokenized, tokenizer)
        for name, model in track(list(baselines.items()), "scoring n-gram baselines"):
            found = {source: score_passages(model, texts, end) for source, texts in tokens.items()}
            board._add(name, found, answer_questions(model, tasks.questions, tokenizer))
        return board

    def add(self, name: str, result: HarnessResult) -> None:
        """Add one model.

        Raises:
            ReforgeError: it sees other tokens than the baselines, so that nothing compares.
        """
        if result.tokens != self._tokens:
            raise ReforgeError(
                f"the tokenizer of {name} gives other tokens than the pipeline's: run "
                "`reforge convert` again"
            )
        self._add(name, result.log_likelihoods, result.questions)
        for task, metrics in result.named.items():
            of = self.named.setdefault(task, {"models": {}, "data": result.data[task]})
            of["models"][name] = metrics
            if task in result.chance:
                of["chance"] = result.chance[task]

    def _add(
        self,
        name: str,
        log_likelihoods: Mapping[str, Sequence[float]],
        answers: Mapping[str, float],
    ) -> None:
        """Log-likelihoods of the passages by source, accuracies if any."""
        sources = list(self._tasks.passages)
        for source, parts in {**{one: [one] for one in sources}, "all": sources}.items():
            self.perplexity[source][name] = perplexities(
                [score for part in parts for score in log_likelihoods[part]],
                [passage for part in parts for passage in self._tasks.passages[part]],
                sum(len(ids) for part in parts for ids in self._tokens[part]),
                self._seed,
            )
        if not answers:
            return
        accuracy, count = answers["acc"], len(self._tasks.questions)
        interval = exact(round(accuracy * count), count)
        self.choices[name] = {
            "accuracy": accuracy,
            "accuracy_low": interval.low,
            "accuracy_high": interval.high,
            "accuracy_norm": answers["acc_norm"],
        }

    def with_chance(self, choices: int) -> Scores:
        """The accuracies beside that of a guess; empty when nothing was asked."""
        return {**self.choices, "chance": {"accuracy": 1 / choices}} if self.choices else {}


def perplexities(
    log_likelihoods: Sequence[float], passages: Sequence[Passage], tokens: int, seed: int = 0
) -> dict[str, float]:
    """The natural log-likelihoods of ``passages`` as bits per byte and as perplexities.

    Bytes are those of UTF-8, words are cut at white space as lm-eval does. The interval of the
    bits per byte is of resampled passages.
    """
    loss = -math.fsum(log_likelihoods)
    sizes = [len(passage.text.encode()) for passage in passages]
    words = sum(len(re.split(r"\s+", passage.text)) for passage in passages)
    interval = ratio_bootstrap([-score for score in log_likelihoods], sizes, seed, bits_per_byte)
    return {
        "bits_per_byte": bits_per_byte(loss / sum(sizes)),
        "bits_per_byte_low": interval.low,
        "bits_per_byte_high": interval.high,
        "token_perplexity": math.exp(loss / tokens),
        "word_perplexity": math.exp(loss / words),
    }


@dataclass(frozen=True)
class Agreement:
    """How far two scorers of one model are apart.

    Attributes:
        identical: Whether every metric is the same to the last bit.
        log_likelihood: The largest difference of a passage's log-likelihood, relative to it.
    """

    identical: bool
    log_likelihood: float


def compare(ours: HarnessResult, theirs: HarnessResult) -> Agreement:
    """The results of two scorers of the same model."""
    pairs = [
        (a, b)
        for source, found in ours.log_likelihoods.items()
        for a, b in zip(found, theirs.log_likelihoods[source], strict=True)
    ]
    kept = ("perplexity", "questions", "named", "groups")
    return Agreement(
        identical=all(getattr(ours, name) == getattr(theirs, name) for name in kept),
        log_likelihood=max(abs(a - b) / abs(b) for a, b in pairs),
    )
