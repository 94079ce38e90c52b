"""Tasks in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
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


class Processes:
    """Up to ``workers`` processes, started at the first need and kept for what comes after.

    One worker means this process. The processes end with the last reference to this.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``map(function, items)``; results come in the order of ``items``.

        ``function`` is importable by name. ``items`` are drawn as they are needed, a few for each
        process ahead. datatrove's own local executor waits forever for a process that the system
        killed, for memory most often; this one says so.

        Raises:
            ReforgeError: a worker process was killed.
        """
        if self._workers <= 1:
            yield from map(function, items)
            return
        if self._pool is None:
            # Spawned: a fork copies locks that other threads (progress bars, BLAS) may hold.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                self._workers, mp_context=context, initializer=_share_the_machine
            )
        # A window of them at a time: all items at once may be more than memory holds.
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(function, item))
                if len(waiting) > _AHEAD * self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            self._pool = None
            raise ReforgeError(
                "a worker process was killed, most likely for memory: use fewer `execution.workers`"
            ) from error
        finally:
            for future in waiting:
                future.cancel()
            wait(waiting)  # what had begun already


def run_here(job: Job, numbers: Sequence[int], processes: Processes) -> Iterator[int]:
    """Do the tasks ``numbers`` in ``processes``; yields each, in order, once it is done.

    A single task is done in this process.

    Raises:
        ReforgeError: a process was killed.
    """
    # The job travels without its items: each goes to the one process that needs it.
    work = partial(_run_one, replace(job, items=()))
    tasks = ((number, job.items[number]) for number in numbers)
    return map(work, tasks) if len(numbers) == 1 else processes.map(work, tasks)


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """``map(function, items)`` on ``workers`` processes of its own, as :meth:`Processes.map`.

    Raises:
        ReforgeError: a worker process was killed.
    """
    yield from Processes(workers).map(function, items)


def _share_the_machine() -> None:
    """Every core has its process: threads of a library would only be in the way."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["OMP_NUM_THREADS"] = "1"


def _run_one(job: Job, task: tuple[int, object]) -> int:
    number, item = task
    replace(job, items={number: item}).run(number)  # type: ignore[arg-type]
    return number
