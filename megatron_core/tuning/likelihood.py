"""How likely a model finds the right responses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from megatron_core.evaluation.intervals import ratio_bootstrap
from megatron_core.tuning.task import Scores

_SEED = 0


def likelihood_scores(
    nats: Sequence[float], counts: Sequence[int], groups: Sequence[str]
) -> Scores:
    """The geometric mean of the probabilities of tokens, and the nats of one.

    Args:
        nats: The negative log-probability of each response.
        counts: Its tokens.
        groups: What each belongs with; whole groups are resampled for the intervals.
    """
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    totals = [sum(nats[row] for row in rows) for rows in members.values()]
    sizes = [float(sum(counts[row] for row in rows)) for rows in members.values()]
    each = sum(totals) / sum(sizes)
    interval = ratio_bootstrap(totals, sizes, _SEED, lambda value: value)
    return {
        "token_probability": {
            "value": math.exp(-each), "low": math.exp(-interval.high),
            "high": math.exp(-interval.low),
        },
        "nats_per_token": {"value": each, "low": interval.low, "high": interval.high},
    }  # fmt: skip
