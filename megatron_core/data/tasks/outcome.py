"""What a task left: its result, or the error that it ended with."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_core.errors import ReforgeError


@dataclass(frozen=True)
class Job:
    """The same function on every item; result i goes to a file of its own in ``folder``.

    Results are pickled: by us, for us, in a folder that lives no longer than the stage.
    """

    function: Callable[[Any], Any]
    items: Sequence[Any]
    folder: Path

    def path(self, number: int) -> Path:
        """Where the result of task ``number`` is, once it is done."""
        return self.folder / f"{number:06d}"

    def done(self, number: int) -> bool:
        """Whether task ``number`` has a result."""
        return self.path(number).exists()

    def run(self, number: int) -> None:
        """Do task ``number`` and keep its result, whole or not at all."""
        result = self.function(self.items[number])
        _write(self.path(number), result)

    def run_apart(self, number: int) -> None:
        """As ``run``; an error is kept for :meth:`check`, since nobody is there to catch it."""
        try:
            self.run(number)
        except ReforgeError as error:
            _write(self._failure(number), error)
        except Exception:
            message = f"task {number} of {self.folder.name} failed:\n{traceback.format_exc()}"
            _write(self._failure(number), ReforgeError(message))

    def check(self, number: int) -> bool:
        """Whether task ``number`` is done; raises the error that it ended with."""
        failure = self._failure(number)
        if failure.exists():
            error = pickle.loads(failure.read_bytes())
            failure.unlink()  # the next attempt starts anew
            raise error
        return self.done(number)

    def result(self, number: int) -> Any:
        """What task ``number`` gave."""
        return pickle.loads(self.path(number).read_bytes())

    def _failure(self, number: int) -> Path:
        return self.folder / f"{number:06d}.error"


def _write(path: Path, value: Any) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with beside.open("wb") as file:
        pickle.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
