"""Tasks over the shards of a corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from megatron_core.data.tasks import Tasks

Result = TypeVar("Result")

_BYTES = 1 << 25


def map_shards(
    tasks: Tasks, name: str, function: Callable[[int], Result], shards: Sequence[Path]
) -> Iterator[Result]:
    """``function`` of the number of every shard, in order, as tasks of the pass ``name``.

    A run of shards that have 32 MB in all is one task: the process for it would take longer to
    start than to do the work.
    """
    runs: list[list[int]] = []
    spent = 0
    for number, shard in enumerate(shards):
        size = shard.stat().st_size
        if not runs or spent + size > _BYTES:
            runs.append([])
            spent = 0
        runs[-1].append(number)
        spent += size
    for results in tasks.map(name, partial(_of_each, function), runs):
        yield from results


def _of_each(function: Callable[[int], Result], numbers: Sequence[int]) -> list[Result]:
    return [function(number) for number in numbers]
