"""How much likelier a model finds a planted secret than random ones (Carlini et al., 2019)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from megatron_core.data.canaries import Canaries, Canary

Bits = Callable[[Sequence[str]], Sequence[float]]


def exposure(rank: int, alternatives: int) -> float:
    """``log2(alternatives + 1) - log2(rank)``, in bits.

    Among all secrets of a space this is the exposure of Carlini et al., section 4.2; among
    ``alternatives`` drawn at random it is their estimate by sampling, section 4.3, which cannot
    exceed ``log2(alternatives + 1)``: at rank 1 the exposure is at least that.

    Args:
        rank: From 1, of a secret among itself and the alternatives, the likeliest first.
    """
    return math.log2(alternatives + 1) - math.log2(rank)


def chance(alternatives: int) -> float:
    """The mean exposure of secrets that a model never saw, whose ranks are all as likely."""
    places = alternatives + 1
    return math.log2(places) - math.lgamma(places + 1) / math.log(2) / places


def measure_exposure(canaries: Canaries, bits: Bits, count: int) -> dict[str, Any]:
    """The exposure of every canary, and of controls that were never planted.

    Canaries, controls and alternatives are texts of one format with different secrets. A tie
    counts for the alternative, so it never makes a secret look remembered.

    Args:
        canaries: Of the recipe that trained the model.
        bits: The log-perplexity of texts in bits, -log2 of their probabilities.
        count: Random alternatives to rank each canary among, at most.

    Returns:
        ``alternatives``, ``most``, the highest exposure they can show, ``chance``, ``groups`` by
        number of copies, with 0 for the controls, and ``each`` canary with rank and exposure.
    """
    asked = [*canaries.controls(), *canaries.planted()]
    alternatives = canaries.alternatives(count)
    found = bits([*(one.text for one in asked), *alternatives])
    others = sorted(found[len(asked) :])
    each = [_ranked(one, own, others) for one, own in zip(asked, found[: len(asked)], strict=True)]
    groups = [
        _group(copies, [one for one in each if one["copies"] == copies])
        for copies in (0, *canaries.config.copies)
    ]
    return {
        "alternatives": len(others),
        "space": canaries.config.space,
        "most": exposure(1, len(others)),
        "chance": chance(len(others)),
        "groups": groups,
        "each": each,
    }


def _ranked(canary: Canary, own: float, others: Sequence[float]) -> dict[str, Any]:
    rank = 1 + bisect_right(others, own)
    return {
        "text": canary.text,
        "copies": canary.copies,
        "bits": own,
        "rank": rank,
        "exposure": exposure(rank, len(others)),
    }


def _group(copies: int, each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    values = [one["exposure"] for one in each]
    return {
        "copies": copies,
        "canaries": len(each),
        "exposure": fmean(values),
        "least": min(values),
        "most": max(values),
        "first": sum(one["rank"] == 1 for one in each),
    }
