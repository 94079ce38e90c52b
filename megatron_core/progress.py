"""Progress bars on long work, quiet when the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

_SECONDS = 0.1  # between two moves of a bar


def progress_bar(*columns: str, shown: bool = True) -> Progress:
    """A bar on stderr with elapsed and remaining time; ``columns`` are further text templates."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(column) for column in columns),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (shown and console.is_terminal),
    )


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` under a bar; ``total`` is needed when they have no length."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress_bar() as bar:
        task = bar.add_task(description, total=total)
        done, shown = 0, time.monotonic()
        for item in items:
            yield item
            done += 1
            # To move the bar takes far longer than to read a document.
            if (now := time.monotonic()) - shown > _SECONDS:
                bar.update(task, completed=done)
                shown = now
        bar.update(task, completed=done)
