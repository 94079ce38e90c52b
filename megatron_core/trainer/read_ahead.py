"""Samples of the next step, read while this one is computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from megatron_core.parallel.batch import Batch


class ReadAhead:
    """Reads samples in one thread, those of each step after them in turn.

    What the reader raises is raised where the samples are asked for.
    """

    def __init__(
        self, read: Callable[[range], Batch], *, sequences: int, steps: int, pinned: bool
    ) -> None:
        """
        Args:
            read: Samples by their numbers.
            sequences: Of one step.
            steps: In all; nothing is read after them.
            pinned: Whether a GPU takes them.
        """
        self._read, self._pinned = read, pinned
        self._sequences, self._end = sequences, sequences * steps
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="input")
        self._begun: dict[range, Future[Batch]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, samples: range) -> Batch:
        """The samples of these numbers; begins to read those of the next step."""
        found = self._begun.pop(samples, None) or self._begin(samples)
        later = range(samples.start + self._sequences, samples.stop + self._sequences)
        if later.stop <= self._end:
            self._begun[later] = self._begin(later)
        return found.result()

    def _begin(self, samples: range) -> Future[Batch]:
        return self._pool.submit(self._make, samples)

    def _make(self, samples: range) -> Batch:
        batch = self._read(samples)
        return batch.pinned() if self._pinned else batch
