"""The same work with one process or several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from megatron_core.errors import ReforgeError

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """``map(function, items)`` on ``workers`` processes; results come in the order of ``items``.

    ``function`` is importable by name. One worker means this process.

    Raises:
        ReforgeError: a worker process was killed.
    """
    if workers == 1:
        yield from map(function, items)
        return
    # Fresh processes: a fork copies locks that other threads (progress bars, BLAS) may hold.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield from pool.map(function, items)
        except BrokenProcessPool as error:
            raise ReforgeError(
                "a worker process was killed, most likely for memory: use fewer `workers`"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
