"""What the stages call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from megatron_core.config.execution import ExecutionConfig, LocalExecution
from megatron_core.data.tasks.cluster import run_on_cluster
from megatron_core.data.tasks.local import Processes, cores, run_here
from megatron_core.data.tasks.outcome import Job
from megatron_core.progress import progress_bar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Tasks:
    """Does the tasks of one stage, and remembers which are done.

    Args:
        folder: Where results are kept. A stage that starts again with the same folder does what
            is missing: the folder must belong to one recipe and one input.
        execution: On what the tasks run.
    """

    def __init__(self, folder: Path, execution: ExecutionConfig | None = None) -> None:
        self.folder = folder
        self.execution = LocalExecution() if execution is None else execution
        self._processes = Processes(self.workers)

    @property
    def workers(self) -> int:
        """Processes that a step which cannot be cut into tasks may use on this machine."""
        here = self.execution.workers if self.execution.kind == "local" else None
        return here or cores()

    def map(
        self, name: str, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[Result]:
        """``map(function, items)`` under a progress bar; results come in the order of ``items``.

        What a task wrote may be there from an attempt that was killed, whole or in part: it must
        write its files anew. ``function`` and ``items`` can be pickled.

        Args:
            name: Of this pass, one for each within the stage.

        Raises:
            ReforgeError: what a task raised; a worker or the cluster failed.
        """
        job = Job(function, items, self.folder / name)
        job.folder.mkdir(parents=True, exist_ok=True)
        missing = [number for number in range(len(items)) if not job.done(number)]
        todo = iter(self._run(job, missing))
        with progress_bar() as bar:
            shown = bar.add_task(name, total=len(items), completed=len(items) - len(missing))
            waiting = set(missing)
            for number in range(len(items)):
                if number in waiting:
                    next(todo)
                    bar.advance(shown)
                yield job.result(number)

    def _run(self, job: Job, numbers: Sequence[int]) -> Iterator[int]:
        if not numbers:
            return iter(())
        if self.execution.kind == "local":
            return run_here(job, numbers, self._processes)
        return run_on_cluster(job, numbers, self.execution)
