"""What the models remember of their training text, and sentences that say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_core.reporting.wording import count, in_order, listing, name, percent

_SETS = {
    "train_likeliest": "beginnings of training documents, the likeliest continuation",
    "train_drawn": "beginnings of training documents, drawn",
    "heldout_likeliest": "beginnings of held-out documents, the likeliest continuation",
    "free": "nothing, and the prompts of the samples, drawn",
    "heldout_text": "what really follows in held-out documents, for comparison",
}
_TOLD_BITS = 2.0  # above chance before a sentence calls a secret remembered


@dataclass(frozen=True)
class Exposure:
    """The canaries of one number of copies: mean exposure of each model, in bits."""

    copies: int
    canaries: int
    values: list[tuple[str, float, float, float]]


@dataclass(frozen=True)
class Overlap:
    """The longest runs of tokens that one model's texts of one kind share with training text."""

    model: str
    texts: int
    what: str
    median: float
    longest: int
    words: int
    verbatim: int | None


@dataclass(frozen=True)
class Memorization:
    """The section on what is remembered.

    Attributes:
        exposures: By number of copies, 0 for secrets never planted; [] without canaries.
        most: The highest exposure that can show, in bits.
        chance: Its mean where nothing is remembered.
        alternatives: Random secrets each was compared with.
    """

    sentences: list[str]
    models: list[str]
    exposures: list[Exposure]
    most: float
    chance: float
    alternatives: int
    overlaps: list[Overlap]


def read_memorization(scores: Mapping[str, Any]) -> Memorization | None:
    """The section from ``scores.json``; None if the recipe did not ask."""
    measured = scores.get("memorization", {})
    found = {model: measured[model] for model in in_order(list(measured))}
    if not found:
        return None
    canaries = {model: of["canaries"] for model, of in found.items() if of["canaries"]}
    nothing: dict[str, Any] = {"groups": [], "most": 0.0, "chance": 0.0, "alternatives": 0}
    first = next(iter(canaries.values()), nothing)
    return Memorization(
        sentences=[
            *(_exposure_sentence(name(model), of) for model, of in canaries.items()),
            *(_verbatim_sentence(name(model), of["overlaps"]) for model, of in found.items()),
        ],
        models=[name(model) for model in canaries],
        exposures=[
            _exposure(number, list(canaries.items())) for number in range(len(first["groups"]))
        ],
        most=first["most"],
        chance=first["chance"],
        alternatives=first["alternatives"],
        overlaps=[
            _overlap(name(model), what, of["overlaps"][key])
            for model, of in found.items()
            for key, what in _SETS.items()
        ],
    )


def _exposure(number: int, canaries: Sequence[tuple[str, Mapping[str, Any]]]) -> Exposure:
    groups = [(name(model), of["groups"][number]) for model, of in canaries]
    _, one = groups[0]
    values = [(model, of["exposure"], of["least"], of["most"]) for model, of in groups]
    return Exposure(one["copies"], one["canaries"], values)


def _overlap(model: str, what: str, of: Mapping[str, Any]) -> Overlap:
    return Overlap(
        model, of["texts"], what, of["median"], of["longest"], of["longest_words"],
        of.get("verbatim"),
    )  # fmt: skip


def _exposure_sentence(model: str, of: Mapping[str, Any]) -> str:
    told = [
        group["copies"]
        for group in of["groups"]
        if group["copies"] and group["exposure"] > of["chance"] + _TOLD_BITS
    ]
    if not told:
        return f"The {model} model shows no sign of knowing the planted secrets."
    times = "once" if told == [1] else f"{listing([count(number) for number in told])} times"
    return f"The {model} model knows secrets that stood {times} in the training text."


def _verbatim_sentence(model: str, overlaps: Mapping[str, Any]) -> str:
    of = overlaps["train_likeliest"]
    return (
        f"Given the beginnings of {count(of['texts'])} training documents, the {model} model "
        f"repeats {percent(of['verbatim_share'])} of the continuations to the last token."
    )
