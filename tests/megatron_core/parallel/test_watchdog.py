"""A hang is ended, and the rank that is to blame is named once; whoever goes on is left alone."""

from __future__ import annotations

import logging
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_core.parallel.watchdog import EXIT_CODE, Report, Watchdog, judge
from tests.ranks import start_ranks
from tests.trainable import wait_for

HANG_AFTER = 1.0
HOST = platform.node()


def stop_self(rank: int, step: int) -> None:
    """The whole process stops, watchdog included."""
    if (rank, step) == (1, 3):
        os.kill(os.getpid(), signal.SIGSTOP)


def lose_oneself(rank: int, step: int) -> None:
    """The process lives, but its step never ends."""
    if (rank, step) == (1, 3):
        time.sleep(600)


def wait_for_each_other(rank: int, step: int) -> None:
    """Every rank waits for a message that no rank sends."""
    if step == 3:
        dist.recv(torch.zeros(1), src=(rank + 1) % 3)


def stop_the_store(rank: int, step: int) -> None:
    """The rank that serves the store is stopped."""
    if (rank, step) == (0, 3):
        os.kill(os.getpid(), signal.SIGSTOP)


def train(fault: Callable[[int, int], None], folder: Path) -> None:
    """Ten steps of exchanges on this rank, with a fault somewhere; what it says is kept."""
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    keep_errors(folder / f"{rank}.log")
    with Watchdog.join(rank, ranks, HANG_AFTER) as watchdog:
        for step in range(1, 11):
            fault(rank, step)
            dist.all_reduce(torch.ones(1))
            time.sleep(0.02)
            watchdog.beat(step)
    dist.destroy_process_group()


def keep_errors(path: Path) -> None:
    """Everything that this process writes to stderr, tracebacks and the log among them."""
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), 2)
    logging.getLogger("megatron_core").addHandler(logging.StreamHandler())


def run(fault: Callable[[int, int], None], folder: Path, hung: set[int]) -> str:
    """What the ranks said; those not ``hung`` must have ended by themselves."""
    processes = start_ranks(train, 3, fault, folder)
    for rank, process in enumerate(processes):
        if rank not in hung:
            process.join(60)
    codes = {rank: process.exitcode for rank, process in enumerate(processes)}
    for process in processes:
        process.kill()
    ended = [code for rank, code in codes.items() if rank not in hung]
    assert EXIT_CODE in ended
    # The others' collectives may fail before their watchdog ends them.
    assert set(ended) <= {1, EXIT_CODE}
    return "".join((folder / f"{rank}.log").read_text() for rank in range(3))


SUFFIX = "; stopping: run the same command again to continue from the last checkpoint\n"


def test_a_rank_that_is_stopped_is_named(tmp_path: Path) -> None:
    said = run(stop_self, tmp_path, hung={1})
    assert re.fullmatch(
        rf"rank 1 \({HOST}\) is missing: last seen after step [012], \d+ s ago{SUFFIX}", said
    )


def test_a_rank_that_does_not_go_on_is_named_with_the_place(tmp_path: Path) -> None:
    said = run(lose_oneself, tmp_path, hung=set())
    assert re.fullmatch(
        rf"rank 1 \({HOST}\) does not go on: no step for \d+ s after step 2, at "
        rf"\S+:\d+ \(a larger hang_after waits longer\){SUFFIX}",
        said,
    )
    (line,) = re.findall(r"test_watchdog.py:(\d+)", said)
    assert "time.sleep(600)" in Path(__file__).read_text().splitlines()[int(line) - 1]


def test_ranks_that_wait_for_each_other(tmp_path: Path) -> None:
    said = run(wait_for_each_other, tmp_path, hung=set())
    assert said.startswith("all ranks wait for each other: no step for ")
    assert said.count("test_watchdog.py:") == 3
    assert said.count("\n") == 1


def test_a_store_that_does_not_answer(tmp_path: Path) -> None:
    said = run(stop_the_store, tmp_path, hung={0})
    assert re.search(r"no step has ended on rank [12] for \d+ s after step 2, and the store", said)


def alone(folder: Path, seconds: float) -> None:
    keep_errors(folder / "log")
    with Watchdog.join(0, 1, HANG_AFTER) as watchdog:
        watchdog.beat(7)
        (folder / "started").touch()
        time.sleep(seconds)
    time.sleep(2.5 * HANG_AFTER - seconds)  # the watch is over


def test_a_process_alone_that_hangs(tmp_path: Path) -> None:
    (process,) = start_ranks(alone, 1, tmp_path, 60)
    process.join(60)
    assert process.exitcode == EXIT_CODE
    assert re.fullmatch(
        rf"rank 0 \({HOST}\) does not go on: no step for [12] s after step 7, at \S+ "
        rf"\(a larger hang_after waits longer\){SUFFIX}",
        (tmp_path / "log").read_text(),
    )


def test_a_slow_step_is_no_hang(tmp_path: Path) -> None:
    (process,) = start_ranks(alone, 1, tmp_path, HANG_AFTER * 0.6)
    process.join(60)
    assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == ""


def test_time_in_which_the_process_was_stopped_does_not_count(tmp_path: Path) -> None:
    (process,) = start_ranks(alone, 1, tmp_path, HANG_AFTER * 0.6)
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(3.5)
    os.kill(process.pid, signal.SIGCONT)
    process.join(60)
    assert process.exitcode == 0


LAUNCHER = "from megatron_core.parallel.launch import launch; launch(2, 'work', [])"
WORK = """
import os, pathlib, time
from megatron_core.parallel.watchdog import Watchdog
rank = os.environ["RANK"]
with Watchdog.join(int(rank), 2, 60):
    pathlib.Path(rank + ".new").write_text(str(os.getpid()))
    pathlib.Path(rank + ".new").rename(rank)
    time.sleep(600)
"""


def test_ranks_do_not_outlive_their_launcher(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    paths = os.pathsep.join((str(tmp_path), str(Path(__file__).parents[3])))
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}
    )
    wait_for(lambda: all((tmp_path / rank).exists() for rank in "01"))
    pids = [int((tmp_path / rank).read_text()) for rank in "01"]
    assert all(is_running(pid) for pid in pids)
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not any(is_running(pid) for pid in pids), 30)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def report(**changes: object) -> Report:
    settings: dict[str, object] = {
        "count": 9, "step": 5, "at": 612, "waiting": True, "place": "x.py:1",
        "host": "node",
    }  # fmt: skip
    settings |= changes
    return Report(**settings | {"at": time.time() - settings["at"]})  # type: ignore[arg-type,operator]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, r"all ranks wait for each other: no step for 612 s, rank 0 at x.py:1, .*"),
        ({2: {"count": 8}}, r"rank 2 \(node\) is missing: last seen after step 5, 612 s ago"),
        # A silent rank is to blame for those that are busy or behind.
        ({1: {"waiting": False}, 2: {"count": 8, "step": 4}}, r"rank 2 .* step 4, 612 s ago"),
        ({1: {"waiting": False}}, r"rank 1 \(node\) does not go on: .* after step 5, at x.*"),
        ({1: {"waiting": False, "step": 4}, 3: {"waiting": False}}, r"rank 1 .* step 4, .*"),
        ({1: {"waiting": False}, 3: {"step": 4}}, r"rank 1 \(node\) does not go on.*"),
        ({3: {"step": 4}}, r"rank 3 \(node\) does not go on: .* after step 4, .*"),
        (
            {1: {"count": 8}, 2: {"count": 8, "step": 6, "at": 600}},
            r"ranks 1 \(node\), 2 \(node\) are missing: last seen after step 6, 60\d s ago",
        ),
    ],
)  # fmt: skip
def test_who_is_to_blame(changes: dict[int, dict[str, object]], sentence: str) -> None:
    before = {rank: report(count=8) for rank in range(4)}
    after = {rank: report(**changes.get(rank, {})) for rank in range(4)}
    said = judge(before, after, 4)
    assert re.fullmatch(sentence, said), said


def test_a_rank_that_was_never_seen_is_missing() -> None:
    before = {rank: report(count=8) for rank in range(3)}
    after = {rank: report() for rank in range(3)}
    assert judge(before, after, 4) == "rank 3 is missing: never seen"


def test_many_missing_ranks_are_counted() -> None:
    reports = {rank: report() for rank in range(32)}
    assert "7 (node) and 24 more are missing" in judge(reports, reports, 32)
