"""Scores of short answers as SQuAD defines them (Rajpurkar et al., 2016), and baselines."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from megatron_core.evaluation.intervals import mean_with_interval

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_FIRST_WORDS = 5


def answer_scores(
    answers: Sequence[Sequence[str]],
    predicted: Sequence[str],
    groups: Sequence[str],
    seed: int = 0,
) -> dict[str, float]:
    """Exact match and token F1 with 95 % bootstrap intervals over ``groups``.

    Case, punctuation, articles and white space do not count; of several right answers the nearest
    does. The answer to a question without any is the empty text.

    Args:
        answers: The right ones of each question.
        predicted: The guess.
        groups: The document of each question.
        seed: Of the resamples.
    """
    found: dict[str, float] = {}
    for name, compare in (("exact_match", exact_match), ("f1", token_f1)):
        each = [
            max(compare(answer, guess) for answer in (right or [""]))
            for right, guess in zip(answers, predicted, strict=True)
        ]
        found |= mean_with_interval(name, groups, each, seed)
    return found


def exact_match(answer: str, predicted: str) -> float:
    """1 if the two have the same words, else 0."""
    return float(_words(answer) == _words(predicted))


def token_f1(answer: str, predicted: str) -> float:
    """Of the words that the two share; 1 if neither has words."""
    true, guess = _words(answer), _words(predicted)
    if not true or not guess:
        return float(true == guess)
    return 2 * (Counter(true) & Counter(guess)).total() / (len(true) + len(guess))


def unanswered_baseline(count: int) -> list[str]:
    """No answer, ``count`` times: what a set with unanswerable questions gives for nothing."""
    return [""] * count


def first_words_baseline(contexts: Sequence[str]) -> list[str]:
    """The first five words of each context."""
    return [" ".join(context.split()[:_FIRST_WORDS]) for context in contexts]


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
