"""Sentences made from the scores: they say who wins, also when it is a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_core.reporting.wording import BASELINES, in_order, kind, listing, name, percent


def perplexity_sentence(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Who has the fewest bits per byte over all text, who on which source, what adapting did."""
    bits = {
        source: {m: of["bits_per_byte"] for m, of in by.items()} for source, by in found.items()
    }
    ranked = sorted(bits["all"], key=lambda m: bits["all"][m])
    rival = next((m for m in ranked if kind(m) != kind(ranked[0])), None)
    sentence = (
        f"Over all text {_the(ranked[0])} is best with {bits['all'][ranked[0]]:.3f} bits per byte"
    )
    if rival:
        more = bits["all"][rival] / bits["all"][ranked[0]] - 1
        best_of = "the best baseline" if kind(rival) == "baseline" else "the best trained model"
        sentence += (
            f"; {best_of}, {_the(rival)}, needs {bits['all'][rival]:.3f}, {percent(more)} more"
        )
    sentence += "."
    sources = [source for source in bits if source != "all"]
    winner = kind(ranked[0])
    other = [s for s in sources if kind(min(bits[s], key=lambda m: bits[s][m])) != winner]
    if winner == "baseline":
        sentence += " A baseline wins."
    if other:
        loser = "a trained model" if winner == "baseline" else "a baseline"
        sentence += f" On {listing([name(s) for s in other])} {loser} wins."
    if {"pretrained", "adapted"} <= bits["all"].keys():
        changes = [_change(bits[s]["adapted"] / bits[s]["pretrained"] - 1, s) for s in sources]
        sentence += f" Continued pretraining changed the bits per byte: {listing(changes)}."
    return sentence


def _change(change: float, source: str) -> str:
    if abs(change) < 5e-4:
        return f"none on {name(source)}"
    return f"{percent(abs(change))} {'fewer' if change < 0 else 'more'} on {name(source)}"


def _the(model: str) -> str:
    return f"the {name(model)} model"


def classification_sentence(results: Mapping[str, Any]) -> str:
    """Whether the classifier or its strongest baseline wins, and whether it is a clear win."""
    model = results["model"]
    rival = max((m for m in results if m in BASELINES), key=lambda m: results[m]["macro_f1"])
    other = results[rival]
    sentence = (
        f"The fine-tuned model reaches a macro-F1 of {_with_interval(model)}; "
        f"{name(rival)} reaches {_with_interval(other)}."
    )
    if model["macro_f1_low"] > other["macro_f1_high"]:
        return f"{sentence} The model wins."
    if other["macro_f1_low"] > model["macro_f1_high"]:
        return f"{sentence} The baseline wins."
    leader = "model" if model["macro_f1"] > other["macro_f1"] else "baseline"
    return f"{sentence} The {leader} is ahead, but the intervals overlap: no clear winner."


def _with_interval(of: Mapping[str, float]) -> str:
    low, high = of["macro_f1_low"], of["macro_f1_high"]
    return f"{of['macro_f1']:.3f} (95 % interval {low:.3f} to {high:.3f})"


def multiple_choice_sentence(found: Mapping[str, Mapping[str, float]], chance: float) -> str:
    """Who answers best, and whose 95 % interval lies above chance."""
    best = max(of["accuracy"] for of in found.values())
    leaders = [_the(m) for m in in_order(list(found)) if found[m]["accuracy"] == best]
    above = [
        _the(model) for model in in_order(list(found)) if found[model]["accuracy_low"] > chance
    ]
    leading = listing(leaders)
    answer = "answers" if len(leaders) == 1 else "answer"
    sentence = (
        f"{leading[0].upper()}{leading[1:]} {answer} best with {percent(best)}; guessing gets "
        f"{percent(chance)}."
    )
    if not above:
        return f"{sentence} No model is clearly better than guessing."
    verb = "is" if len(above) == 1 else "are"
    return f"{sentence} Clearly better than guessing {verb} {listing(above)}."
