"""Sentences made from the scores: they say who wins, also when it is a baseline."""

from __future__ import annotations

from collections.abc import Mapping

from megatron_core.reporting.wording import (
    SMALLER_IS_BETTER,
    in_order,
    kind,
    listing,
    metric_name,
    name,
    percent,
)


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


def task_sentence(
    metric: str, scores: Mapping[str, Mapping[str, Mapping[str, float]]], *, trainings: int = 1
) -> str:
    """Whether the model or its strongest rival wins, and whether it is a clear win."""
    if metric not in scores["model"]:
        return (
            f"The fine-tuned model has no {metric_name(metric)}: there is nothing to compute it of."
        )
    model, sign = scores["model"][metric], -1 if metric in SMALLER_IS_BETTER else 1
    over = f", on average over {trainings} trainings," if trainings > 1 else ""
    sentence = f"The fine-tuned model{over} reaches {_article(metric)} of {_with_interval(model)}"
    rivals = [who for who in scores if who != "model" and metric in scores[who]]
    if not rivals:
        return f"{sentence}."
    rival = max(in_order(rivals), key=lambda who: sign * scores[who][metric]["value"])
    other, who = scores[rival][metric], "model before" if rival == "start" else "baseline"
    named = f"the {name(rival)}" if rival == "start" else name(rival)
    sentence += f"; {named} reaches {_with_interval(other)}."
    if model["value"] == other["value"]:
        return f"{sentence} They are level."
    ahead = sign * (model["value"] - other["value"]) > 0
    leader = ("fine-tuned model" if rival == "start" else "model") if ahead else who
    if not ("low" in model and "low" in other):
        return f"{sentence} The {leader} is ahead; no intervals say how clearly."
    first, second = (model, other) if ahead else (other, model)
    ends = ("low", "high") if sign > 0 else ("high", "low")
    if sign * (first[ends[0]] - second[ends[1]]) > 0:
        return f"{sentence} The {leader} wins."
    return f"{sentence} The {leader} is ahead, but the intervals overlap: no clear winner."


def _article(metric: str) -> str:
    shown = metric_name(metric)
    return f"{'an' if shown[0] in 'aeioF' else 'a'} {shown}"


def _with_interval(of: Mapping[str, float]) -> str:
    if "low" not in of:
        return f"{of['value']:.3f}"
    return f"{of['value']:.3f} (95 % interval {of['low']:.3f} to {of['high']:.3f})"


def masked_sentence(found: Mapping[str, Mapping[str, float]]) -> str:
    """Which encoder finds most of the hidden tokens, and what adapting did."""
    best = max(in_order(list(found)), key=lambda model: found[model]["accuracy"])
    of = found[best]
    sentence = (
        f"{_capital(_the(best))} finds {percent(of['accuracy'])} of the hidden tokens "
        f"(95 % interval {percent(of['accuracy_low'])} to {percent(of['accuracy_high'])})"
    )
    others = [model for model in in_order(list(found)) if model != best]
    sentence += "".join(f"; {_the(m)} {percent(found[m]['accuracy'])}" for m in others)
    return f"{sentence}."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


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
        f"{_capital(leading)} {answer} best with {percent(best)}; guessing gets {percent(chance)}."
    )
    if not above:
        return f"{sentence} No model is clearly better than guessing."
    verb = "is" if len(above) == 1 else "are"
    return f"{sentence} Clearly better than guessing {verb} {listing(above)}."
