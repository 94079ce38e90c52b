"""Tasks in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from typing import TypeVar

from megatron_core.data.tasks.outcome import Job
from megatron_core.errors import ReforgeError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 8  # items that may wait for each process


def cores() -> int:
    """Those this process may use; all of them where the system cannot say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_here(job: Job, numbers: Sequence[int], workers: int) -> Iterator[int]:
    """Do the tasks ``numbers`` in ``workers`` processes; yields each, in order, once it is done.

    Raises:
        ReforgeError: a process was killed.
    """
    # The job travels without its items: each goes to the one process that needs it.
    tasks = ((number, job.items[number]) for number in numbers)
    return ordered_map(partial(_run_one, replace(job, items=())), tasks, min(workers, len(numbers)))


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """``map(function, items)`` on ``workers`` processes; results come in the order of ``items``.

    ``function`` is importable by name. ``items`` are drawn as they are needed, a few for each
    process ahead. One worker means this process. datatrove's own local
    executor waits forever for a process that the system killed, for memory most often; this one
    says so.

    Raises:
        ReforgeError: a worker process was killed.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    # Fresh processes: a fork copies locks that other threads (progress bars, BLAS) may hold.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_share_the_machine) as pool:
        try:
            # A window of them at a time: all items at once may be more than memory holds.
            waiting: deque[Future[Result]] = deque()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise ReforgeError(
                "a worker process was killed, most likely for memory: use fewer `execution.workers`"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _share_the_machine() -> None:
    """Every core has its process: threads of a library would only be in the way."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["OMP_NUM_THREADS"] = "1"


def _run_one(job: Job, task: tuple[int, object]) -> int:
    number, item = task
    replace(job, items={number: item}).run(number)  # type: ignore[arg-type]
    return number
