"""95 % confidence intervals of scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, t

RESAMPLES = 1000
_FEW = 200  # resamples where every one of them is aggregated anew
_TAIL = 0.025


@dataclass(frozen=True)
class Interval:
    """Where a score lies, and how that was found: ``exact`` or ``bootstrap``."""

    low: float
    high: float
    kind: str


def exact(right: int, count: int) -> Interval:
    """Of a share of ``count`` independent answers (Clopper & Pearson, 1934)."""
    low = float(beta.ppf(_TAIL, right, count - right + 1)) if right else 0.0
    high = float(beta.ppf(1 - _TAIL, right + 1, count - right)) if right < count else 1.0
    return Interval(low, high, "exact")


def ratio_bootstrap(
    totals: Sequence[float], sizes: Sequence[float], seed: int, transform: Callable[[float], float]
) -> Interval:
    """Of ``transform(sum of totals / sum of sizes)`` over documents, which are resampled.

    Percentiles of 1,000 resamples (Efron, 1979); ``transform`` is monotonic.
    """
    above, below = np.asarray(totals, np.float64), np.asarray(sizes, np.float64)
    random = np.random.RandomState(seed)
    found = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        drawn = random.randint(len(above), size=len(above))
        found[number] = above[drawn].sum() / below[drawn].sum()
    return _percentiles([transform(float(value)) for value in found])


def bootstrap(
    items: Sequence[Any], aggregate: Callable[[list[Any]], float], seed: int
) -> Interval | None:
    """Of any score that ``aggregate`` makes of documents' ``items``; None where it fails.

    Percentiles of 200 resamples: each is aggregated anew.
    """
    random = np.random.RandomState(seed)
    found = []
    for _ in range(_FEW):
        drawn = random.randint(len(items), size=len(items))
        try:
            found.append(float(aggregate([items[i] for i in drawn])))
        except (ValueError, ZeroDivisionError):  # a resample of one class has no such score
            return None
    return _percentiles(found)


def mean_interval(values: Sequence[float], seed: int) -> Interval:
    """Of a mean over documents: exact where each is right or wrong, else bootstrap."""
    if set(values) <= {0.0, 1.0}:
        return exact(int(sum(values)), len(values))
    return ratio_bootstrap(values, [1.0] * len(values), seed, lambda value: value)


def over_groups(
    groups: Sequence[str],
    score: Callable[[NDArray[np.int64]], float],
    seed: int,
) -> Interval | None:
    """Of any score of examples whose ``groups`` are resampled whole, since those of one are alike.

    Percentiles of the resamples; None where one of them has no such score.

    Args:
        groups: Of each example: its document, its patient.
        score: Of the examples of these numbers, of which some come several times.
        seed: Of the resamples.
    """
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    blocks = [np.array(rows, np.int64) for rows in members.values()]
    random = np.random.RandomState(seed)
    found = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        drawn = random.randint(len(blocks), size=len(blocks))
        found[number] = score(np.concatenate([blocks[i] for i in drawn]))
    return _percentiles(found) if np.isfinite(found).all() else None


def with_interval(
    name: str, groups: Sequence[str], score: Callable[[NDArray[np.int64]], float], seed: int
) -> dict[str, float]:
    """``score`` of all examples as ``name``, with ``name_low`` and ``name_high`` by
    :func:`over_groups` where there are such."""
    found = {name: float(score(np.arange(len(groups))))}
    if (interval := over_groups(groups, score, seed)) is not None:
        found |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return found


def mean_with_interval(
    name: str, groups: Sequence[str], values: Sequence[float], seed: int
) -> dict[str, float]:
    """As :func:`with_interval`, of the mean of ``values``."""
    each = np.asarray(values, np.float64)
    return with_interval(name, groups, lambda rows: float(each[rows].mean()), seed)


@dataclass(frozen=True)
class OverRuns:
    """A score over several runs, such as of several seeds.

    Attributes:
        mean: Of the runs.
        deviation: The standard deviation of a run, with ``runs - 1`` degrees of freedom; None for
            one run.
        low, high: Where the mean of many runs lies, to 95 %, by Student's t; None for one run.
        runs: How many.
    """

    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    runs: int


def over_runs(values: Sequence[float]) -> OverRuns:
    """The mean of runs that differ in their seed alone, and how sure it is (Student, 1908)."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return OverRuns(mean, None, None, None, count)
    deviation = float(np.std(values, ddof=1))
    half = float(t.ppf(1 - _TAIL, count - 1)) * deviation / math.sqrt(count)
    return OverRuns(mean, deviation, mean - half, mean + half, count)


def _percentiles(found: Sequence[float] | NDArray[np.float64]) -> Interval:
    low, high = np.percentile(found, [100 * _TAIL, 100 * (1 - _TAIL)])
    return Interval(float(low), float(high), "bootstrap")


def bits_per_byte(nats_per_byte: float) -> float:
    """The unit of our perplexities, from nats."""
    return nats_per_byte / math.log(2)
