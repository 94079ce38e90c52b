"""Several ways to do one thing, timed in turns within one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Step = Callable[[int], Any]
Times = dict[str, list[float]]


def in_turns(
    steps: Mapping[str, Step], count: int, *, first: int = 1, warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:  # fmt: skip
    """Seconds by ``clock`` of ``count`` calls of each step, which is given its number.

    Numbers go on from ``first``; calls of the first ``warmup`` rounds are made, but not counted.
    """
    times: Times = {name: [] for name in steps}
    for turn in range(warmup + count):
        # To and fro, so that none always follows the same other one's caches.
        for name, step in list(steps.items())[:: -1 if turn % 2 else 1]:
            start = clock()
            step(first + turn)
            if turn >= warmup:
                times[name].append(clock() - start)
    return times


def paired(values: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios of neighbours in time."""
    return statistics.median(a / b for a, b in zip(values, others, strict=True))
