"""Scores of summaries: ROUGE (Lin, 2004), by the rouge-score package; and the baseline of the
beginning."""

from __future__ import annotations

from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer

from megatron_core.data.tuning.words import split_sentences
from megatron_core.evaluation.intervals import mean_with_interval

_KINDS = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"}


def rouge_scores(
    summaries: Sequence[str],
    predicted: Sequence[str],
    groups: Sequence[str],
    seed: int = 0,
    *,
    stem: bool = False,
) -> dict[str, float]:
    """The mean F1 of ROUGE-1, -2 and -L over summaries, with 95 % bootstrap intervals over
    ``groups``.

    ROUGE-L is of the whole text as one sentence. Words are runs of a-z and 0-9 in lower case.

    Args:
        summaries: The right ones.
        predicted: The guesses.
        groups: The document of each.
        seed: Of the resamples.
        stem: Whether Porter's stemmer cuts the words' ends.
    """
    scorer = RougeScorer(list(_KINDS), use_stemmer=stem)
    each = [
        scorer.score(summary, guess) for summary, guess in zip(summaries, predicted, strict=True)
    ]
    found: dict[str, float] = {}
    for kind, name in _KINDS.items():
        values = [float(one[kind].fmeasure) for one in each]
        found |= mean_with_interval(name, groups, values, seed)
    return found


def lead_baseline(texts: Sequence[str], sentences: int = 1) -> list[str]:
    """The first sentences of each text: a summary that reads nothing else."""
    return [
        " ".join(text[start:stop] for start, stop in split_sentences(text)[:sentences])
        for text in texts
    ]
