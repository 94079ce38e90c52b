"""Ranks that exist already are joined; those that are launched are watched."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.api import SubprocessContext

from megatron_core.errors import ConfigError, Interrupted, ReforgeError
from megatron_core.parallel.launch import is_first_rank, joined_ranks, launch

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher around the tests; what they set is undone."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The second of three tasks on two nodes, and the ``scontrol`` that lists the nodes."""
    for name, value in {
        "SLURM_PROCID": "1", "SLURM_NTASKS": "3", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "node[3-4]", "PATH": str(tmp_path),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$3" = "node[3-4]" ] && printf "node3\\nnode4\\n"\n')
    scontrol.chmod(0o755)
    return scontrol


def test_alone() -> None:
    assert joined_ranks() is None
    assert is_first_rank()


def test_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert joined_ranks() == 4
    assert not is_first_rank()


@pytest.mark.usefixtures("slurm")
def test_tasks_of_srun() -> None:
    assert joined_ranks() == 3
    found = {name: os.environ[name] for name in VARIABLES}
    assert found == {
        "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "node3",
        "MASTER_PORT": "20007",
    }  # fmt: skip


def test_srun_without_scontrol(slurm: Path) -> None:
    slurm.unlink()
    with pytest.raises(ConfigError, match="set MASTER_ADDR"):
        joined_ranks()


def test_one_task_of_sbatch_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert joined_ranks() is None


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Launches two ranks, each of which runs a few lines in ``tmp_path``."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*lines: str, restarts: int = 0) -> int:
        header = "import os, pathlib, signal, sys, time\nrank = os.environ['RANK']"
        (tmp_path / "work.py").write_text("\n".join((header, *lines)))
        return launch(2, "work", ["argument"], restarts=restarts)

    return run


def test_ranks_that_succeed(ranks: Callable[..., int], tmp_path: Path) -> None:
    assert ranks("pathlib.Path(rank).write_text(os.environ['WORLD_SIZE'] + sys.argv[1])") == 0
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["2argument"] * 2


def test_ranks_find_each_other(ranks: Callable[..., int]) -> None:
    work = (
        "import torch.distributed as dist",
        "dist.init_process_group('gloo')",
        "dist.barrier()",
        "sys.exit(0 if dist.get_rank() == int(rank) else 5)",
    )
    assert ranks(*work) == 0


def test_a_rank_that_fails_is_named(ranks: Callable[..., int]) -> None:
    with pytest.raises(ReforgeError, match="rank 1 ended with exit code 3 and the others were st"):
        ranks("if rank == '1': sys.exit(3)", "time.sleep(60)")


def test_the_rank_that_failed_first_is_named(ranks: Callable[..., int]) -> None:
    """The other one fails at once, as one whose peer is gone, and has the lower number."""
    work = (
        "beside = pathlib.Path('pid')",
        "if rank == '1':",
        "    beside.with_name('new').write_text(str(os.getpid()))",
        "    beside.with_name('new').rename(beside)",
        "    time.sleep(60)",
        "while not beside.exists(): time.sleep(0.01)",
        "os.kill(int(beside.read_text()), signal.SIGKILL)",
        "sys.exit(1)",
    )
    with pytest.raises(ReforgeError, match="rank 1 was killed by SIGKILL"):
        ranks(*work)


WAIT = (
    f"sys.path.insert(0, {str(Path(__file__).parents[3])!r})",
    "from megatron_core.parallel.interrupts import Interrupts",
    "with Interrupts() as interrupts:",
    "    pathlib.Path('ready' + rank).touch()",
    "    while not (pathlib.Path('ready0').exists() and pathlib.Path('ready1').exists()):",
    "        time.sleep(0.01)",
    "    if rank == '0': os.kill(os.getppid(), number)",
    "    while not interrupts.requested: time.sleep(0.01)",
    "    time.sleep(0.3)",
    "    pathlib.Path('saved' + rank).touch()",
    "    while len(list(pathlib.Path().glob('saved*'))) < 2: time.sleep(0.01)",
    "sys.exit(75)",
)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP"])
def test_a_signal_reaches_the_ranks_and_leaves_them_time(
    number: str, ranks: Callable[..., int], tmp_path: Path
) -> None:
    before = signal.getsignal(getattr(signal, number))
    assert ranks(f"number = signal.{number}", *WAIT, restarts=3) == os.EX_TEMPFAIL
    assert {path.name for path in tmp_path.glob("saved*")} == {"saved0", "saved1"}
    assert signal.getsignal(getattr(signal, number)) is before


@pytest.mark.parametrize("number", ["SIGTERM", "SIGUSR1"])
def test_the_time_they_are_left_has_no_end(
    number: str, ranks: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlike what torch leaves them, which is made much less than they need."""
    close = SubprocessContext._close
    monkeypatch.setattr(
        SubprocessContext, "_close", lambda self, death_sig, timeout: close(self, death_sig, 0)
    )
    assert ranks(f"number = signal.{number}", *WAIT) == os.EX_TEMPFAIL
    assert len(list(tmp_path.glob("saved*"))) == 2


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_before_the_ranks_can_save(number: str, ranks: Callable[..., int]) -> None:
    work = (f"if rank == '1': os.kill(os.getppid(), signal.{number})", "time.sleep(60)")
    with pytest.raises(Interrupted, match=f"stopped by {number}: run the same command again"):
        ranks(*work, restarts=3)


def test_ranks_that_saved_ask_to_be_requeued(ranks: Callable[..., int]) -> None:
    """As when one of them alone was asked to end."""
    assert ranks("time.sleep(0.5 if rank == '0' else 0)", "sys.exit(75)") == os.EX_TEMPFAIL


FAIL_TWICE = (
    "attempt = os.environ['TORCHELASTIC_RESTART_COUNT']",
    "pathlib.Path(f'{attempt}-{rank}').touch()",
    "if rank == '1' and attempt < '2':",
    "    while not pathlib.Path(f'{attempt}-0').exists(): time.sleep(0.01)",
    "    {}",
    "if attempt < '2': time.sleep(60)",
)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "rank 1 was killed by SIGKILL: restart 2 of 2"),
        ("sys.exit(69)", "rank 1 ended with exit code 69: restart 2 of 2"),
    ],
)
def test_ranks_are_started_again(
    fault: str, said: str, ranks: Callable[..., int], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    work = [line.format(fault) if line == "    {}" else line for line in FAIL_TWICE]
    with caplog.at_level("WARNING", logger="megatron_core"):
        assert ranks(*work, restarts=2) == 0
    assert [message for message in caplog.messages if "restart 2" in message] == [said]
    attempts = {path.name for path in tmp_path.glob("?-?")}
    assert attempts == {f"{attempt}-{rank}" for attempt in range(3) for rank in range(2)}


def test_restarts_come_to_an_end(ranks: Callable[..., int]) -> None:
    with pytest.raises(ReforgeError, match="was killed by SIGKILL and the others were stopped"):
        ranks("os.kill(os.getpid(), signal.SIGKILL)", restarts=1)
    # After a hang a rank has said what to do.
    assert ranks("sys.exit(69)", restarts=1) == os.EX_UNAVAILABLE


def test_what_would_fail_again_is_not_restarted(ranks: Callable[..., int], tmp_path: Path) -> None:
    work = ("pathlib.Path(os.environ['TORCHELASTIC_RESTART_COUNT']).touch()", "sys.exit(2)")
    with pytest.raises(ReforgeError, match="ended with exit code 2"):
        ranks(*work, restarts=3)
    assert not (tmp_path / "1").exists()
