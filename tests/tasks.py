"""Tasks without a stage around them."""

from __future__ import annotations

import pickle
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron_core.config import LocalExecution
from megatron_core.data.tasks import Tasks


def local_tasks(workers: int = 1) -> Tasks:
    """Nothing is done yet, and nobody asks for the results again."""
    return Tasks(Path(tempfile.mkdtemp()), LocalExecution(workers=workers))


class ShuffledTasks(Tasks):
    """What many processes amount to, without their start: the tasks of a pass are done in no
    order, each with its own copies of function and item."""

    def __init__(self) -> None:
        super().__init__(Path(tempfile.mkdtemp()))

    def map(self, name: str, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """Results in the order of ``items``."""
        sent = [pickle.dumps((function, item)) for item in items]
        results = {}
        for number in random.Random(name).sample(range(len(sent)), len(sent)):
            ours, item = pickle.loads(sent[number])
            results[number] = ours(item)
        return (results[number] for number in range(len(sent)))
