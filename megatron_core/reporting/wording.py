"""Numbers and names as people read them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

_GAP = "\u00a0"  # a number stays on one line with its unit
_NAMES = {
    "all": "all text",
    "dictionary": "dictionary of the training examples",
    "majority": "majority class",
    "mean": "mean of the training examples",
    "model": "fine-tuned model",
    "start": "model before",
    "tfidf_logistic_regression": "TF-IDF + logistic regression",
    "tfidf_ridge": "TF-IDF + ridge regression",
}
_METRICS = {
    "f1": "F1",
    "macro_f1": "macro-F1",
    "mean_squared_error": "mean squared error",
    "micro_f1": "micro-F1",
    "nats_per_token": "loss in nats per token",
    "pearson": "Pearson correlation",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "spearman": "Spearman correlation",
}
SMALLER_IS_BETTER = frozenset({"mean_squared_error", "nats_per_token"})


def name(key: str) -> str:
    """The name people know a model, source or reason by."""
    return _NAMES.get(key, key.replace("_", " "))


def metric_name(key: str) -> str:
    """The name people know a metric by."""
    return _METRICS.get(key, key.replace("_", " "))


BASELINES = frozenset({"unigram", "bigram", "trigram"})


def kind(model: str) -> str:
    """ "baseline" or "model"."""
    return "baseline" if model in BASELINES else "model"


def in_order(models: Sequence[str], model: str | None = None) -> list[str]:
    """Baselines first, the simplest first; then the models, ``model`` last."""
    known = ("majority", "unigram", "bigram", "trigram", "tfidf_logistic_regression", "pretrained")
    return sorted(
        models,
        key=lambda m: (m == model, m == "start", kind(m) == "model", [*known, m].index(m), m),
    )


def count(number: int) -> str:
    """An exact count: 18,473."""
    return f"{number:,}"


def amount(number: float) -> str:
    """A rounded count: 12,345, then 2.36 M, then 1.20 B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if float(f"{number:.3g}") >= size:  # what rounds up to 1000 M is 1 B
            return f"{number / size:.3g}{_GAP}{letter}"
    return f"{number:,.0f}"


def amount_in_words(number: float) -> str:
    """A rounded count in running text: 3.22 million."""
    for letter, word in (("T", "trillion"), ("B", "billion"), ("M", "million")):
        shown = amount(number)
        if shown.endswith(letter):
            return shown[:-1] + word
    return amount(number)


def scientific(number: float) -> str:
    """A small number: 3.1e-7."""
    mantissa, _, exponent = f"{number:.1e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def duration(seconds: float) -> str:
    """Seconds as 0.4 s, 18 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f}{_GAP}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_GAP}s"
    if whole < 3600:
        return f"{whole // 60}{_GAP}min {whole % 60}{_GAP}s"
    return f"{whole // 3600}{_GAP}h {whole % 3600 // 60}{_GAP}min"


def percent(share: float, digits: int = 1) -> str:
    """A share of one: 97.2 %."""
    return f"{100 * share:.{digits}f}{_GAP}%"


def plural(number: int, one: str, many: str | None = None) -> str:
    """1 document, 2 documents."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def listing(items: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


@dataclass(frozen=True)
class Piece:
    """A stretch of text that is common to two texts, or in only one of them."""

    text: str
    differs: bool


def mark_differences(ours: str, theirs: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces, by words; runs of white space become one space."""
    a, b = ours.split(), theirs.split()
    left: list[Piece] = []
    right: list[Piece] = []
    for tag, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for pieces, words in ((left, a[i:j]), (right, b[k:m])):
            if words:
                pieces.append(Piece(" ".join(words), tag != "equal"))
    return left, right
