"""Tasks in processes of this machine: order, errors, kills, and what is remembered."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_core.config import LocalExecution
from megatron_core.data.tasks import Tasks, ordered_map
from megatron_core.errors import CorpusError, ReforgeError


def square_and_say(item: tuple[int, Path]) -> int:
    """Leaves a line each time it is called."""
    number, log = item
    with log.open("a") as file:
        file.write(f"{number}\n")
    return number**2


def fail_at_three(item: tuple[int, Path]) -> int:
    if item[0] == 3:
        raise CorpusError("three is no document")
    return square_and_say(item)


def die_at_three(item: tuple[int, Path]) -> int:
    if item[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return square_and_say(item)


def process(item: int) -> int:
    return os.getpid()


def children() -> set[int]:
    """Processes of this one that live."""
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}


def tasks(folder: Path, workers: int | None) -> Tasks:
    return Tasks(folder / "tasks", LocalExecution(workers=workers))


def items(folder: Path, count: int = 7) -> list[tuple[int, Path]]:
    return [(number, folder / "log") for number in range(count)]


def called(folder: Path) -> list[int]:
    return sorted(int(line) for line in (folder / "log").read_text().split())


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(tmp_path: Path, workers: int) -> None:
    found = tasks(tmp_path, workers).map("squares", square_and_say, items(tmp_path))
    assert isinstance(found, Iterator)
    assert list(found) == [number**2 for number in range(7)]


def test_the_work_is_done_elsewhere_when_there_are_several_workers(tmp_path: Path) -> None:
    assert os.getpid() not in tasks(tmp_path, 2).map("here", process, range(4))
    assert set(tasks(tmp_path / "one", 1).map("here", process, range(4))) == {os.getpid()}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("function", "error"), [(fail_at_three, "three is no document"), (die_at_three, "was killed")]
)
def test_what_is_done_is_not_done_again(
    tmp_path: Path, workers: int, function: object, error: str
) -> None:
    if function is die_at_three and workers == 1:
        pytest.skip("with one worker the process itself would be killed")
    with pytest.raises(ReforgeError, match=error):
        list(tasks(tmp_path, workers).map("squares", function, items(tmp_path)))  # type: ignore[arg-type]
    done = {path.name for path in (tmp_path / "tasks/squares").iterdir()}
    before = called(tmp_path)
    again = list(tasks(tmp_path, workers).map("squares", square_and_say, items(tmp_path)))
    assert again == [number**2 for number in range(7)]
    # Only what was begun, but not done, when the process died may be begun again.
    kept = {int(name) for name in done if name.isdecimal()}
    assert sorted([*before, *({*range(7)} - kept)]) == called(tmp_path)


def test_passes_have_results_of_their_own(tmp_path: Path) -> None:
    one = tasks(tmp_path, 1)
    assert list(one.map("first", square_and_say, items(tmp_path, 2))) == [0, 1]
    assert list(one.map("second", process, range(1))) == [os.getpid()]
    assert list(one.map("nothing", process, [])) == []


def test_processes_last_from_pass_to_pass_and_are_replaced_when_killed(tmp_path: Path) -> None:
    several = tasks(tmp_path, 2)
    first = set(several.map("first", process, range(8)))
    assert set(several.map("second", process, range(8))) <= first | children()
    assert first <= children()
    with pytest.raises(ReforgeError, match="was killed"):
        list(several.map("killed", die_at_three, items(tmp_path)))
    assert first.isdisjoint(several.map("third", process, range(8)))


def test_processes_end_with_the_tasks(tmp_path: Path) -> None:
    several = tasks(tmp_path, 2)
    used = set(several.map("here", process, range(4)))
    del several
    end = time.monotonic() + 30
    while used & children() and time.monotonic() < end:
        time.sleep(0.02)
    assert not used & children()


def test_every_core_is_taken_unless_told(tmp_path: Path) -> None:
    assert tasks(tmp_path, None).workers == len(os.sched_getaffinity(0))
    assert tasks(tmp_path, 3).workers == 3


def test_items_are_drawn_as_they_are_needed() -> None:
    drawn = []

    def items() -> Iterator[int]:
        for number in range(1000):
            drawn.append(number)
            yield number

    results = ordered_map(abs, items(), 2)
    assert next(results) == 0
    assert len(drawn) < 100
    assert list(results) == list(range(1, 1000))
