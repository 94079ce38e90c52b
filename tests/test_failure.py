"""What goes wrong with ranks and machines, on real processes: said in a line, and made good."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from benchmarks.hosts import cut_and_mend, open_hosts
from tests.trainable import (
    kill_rank,
    ranks_in,
    root,
    run,
    saved_steps,
    start,
    wait_for,
    wait_for_step,
    write_trainable,
)

TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node=2", "--no-python")
ENDED = r"asked to end, saved step (\d+) of 60: run the same command again to continue\n"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trainable(tmp_path_factory.mktemp("template"))


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A project that is ready to train."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="module")
def undisturbed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The root of the same training without any fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(template, folder, dirs_exist_ok=True)
    code, said = run(folder, "reforge", "pretrain", "--layout", "data=1")
    assert code == 0, said
    return root(folder)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def continued(project: Path, layout: str = "data=1") -> str:
    """The root after the same command again."""
    code, said = run(project, "reforge", "pretrain", "--layout", layout)
    assert code == 0, said
    assert "resuming from" in said
    return root(project)


@pytest.mark.parametrize("target", ["launcher", "one rank", "process alone"])
def test_a_signal_that_asks_for_an_end(target: str, project: Path, undisturbed: str) -> None:
    layout = "data=1" if target == "process alone" else "data=2"
    process = start(project, "reforge", "pretrain", "--layout", layout)
    wait_for_step(project, 3)
    if target == "one rank":
        kill_rank(project, 1, signal.SIGUSR1)
    else:
        process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code == os.EX_TEMPFAIL
    ended = re.fullmatch(ENDED, "".join(s for s in said.splitlines(True) if "reforge:" not in s))
    assert ended, said
    assert saved_steps(project) == [int(ended[1])]
    assert not (project / "artifacts/pretrain").exists()
    assert continued(project) == undisturbed


def test_torchrun_that_is_asked_to_end(project: Path, undisturbed: str) -> None:
    process = start(project, *TORCHRUN, "reforge", "pretrain")
    wait_for_step(project, 3)
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code != 0
    assert len(re.findall(ENDED, said)) == 1
    assert len(saved_steps(project)) == 1
    assert continued(project) == undisturbed


@pytest.mark.parametrize("launcher", ["torchrun", "reforge"])
def test_a_rank_that_is_killed_is_started_again(
    launcher: str, project: Path, undisturbed: str
) -> None:
    command = ["reforge", "pretrain", "--set", "pretrain.checkpoints.every=5"]
    if launcher == "torchrun":
        command = [*TORCHRUN[:-1], "--max-restarts=1", TORCHRUN[-1], *command]
    process = start(project, *command, REFORGE_RESTARTS="1", REFORGE_LAYOUT="data=2")
    wait_for(lambda: saved_steps(project))
    killed = kill_rank(project, 1)
    code, said = finish(process)
    assert code == 0, said
    assert "resuming from" in said
    assert ("rank 1 was killed by SIGKILL: restart 1 of 1" in said) == (launcher == "reforge")
    assert killed not in ranks_in(project).values()
    assert root(project) == undisturbed


def test_a_rank_that_hangs_is_named(project: Path, undisturbed: str) -> None:
    settings = ("--set", "pretrain.hang_after=3", "--set", "pretrain.checkpoints.every=5")
    process = start(project, "reforge", "pretrain", "--layout", "data=2", *settings)
    wait_for(lambda: saved_steps(project))
    stopped = kill_rank(project, 1, signal.SIGSTOP)
    assert process.stderr is not None
    said = ""
    while "missing" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    os.kill(stopped, signal.SIGKILL)  # as the launcher does after half a minute
    code, rest = finish(process)
    assert code == os.EX_UNAVAILABLE
    assert re.search(r"rank 1 \(\S+\) is missing: last seen after step \d+, \d+ s ago; stopp", said)
    assert rest == ""
    assert continued(project, "data=2") == undisturbed


def test_a_loss_that_is_no_number(project: Path) -> None:
    explode = ("--set", "pretrain.optimizer.learning_rate=1e30")
    often = ("--set", "pretrain.checkpoints.every=1")
    code, said = run(project, "reforge", "pretrain", "--layout", "data=2", *explode, *often)
    assert code == 1
    found = re.fullmatch(
        r"error: the loss of step (\d+) is \S+: the gradient is not finite in "
        r"embedding.weight/0, .*\. No update was made: .*\n"
        r"error: rank 0 ended with exit code 1 and the others were stopped: .*\n",
        said,
    )
    assert found, said
    assert max(saved_steps(project)) == int(found[1]) - 1


def test_a_host_that_is_cut_off_comes_back(tmp_path: Path) -> None:
    try:
        with open_hosts(1):
            pass
    except OSError as error:
        pytest.skip(f"hosts are made of network namespaces, and here there are none: {error}")
    settings = ("--set=pretrain.steps=60", "--set=pretrain.checkpoints.every=10")
    found = cut_and_mend(tmp_path, 1, 25, settings)
    assert re.match(r"rank 1 \(host1\) is missing: last seen after step \d+, ", found.said)
    assert found.resumed_from in {10, 20}
    assert found.root == found.undisturbed


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """Stands for Slurm: ``srun`` runs one task, whose exit code is in a file."""
    for name, body in {
        "srun": 'echo "srun $@" >> calls; exit $(cat code)',
        "scontrol": 'echo "scontrol $@" >> calls',
    }.items():
        command = tmp_path / name
        command.write_text(f"#!/bin/sh\n{body}\n")
        command.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(0, 0, False), (75, 0, True), (75, 99, True), (69, 4, True), (69, 5, False), (1, 0, False)],
)
def test_the_slurm_script_requeues_what_can_go_on(
    code: int, restarts: int, requeued: bool, slurm: Path
) -> None:
    (slurm / "code").write_text(str(code))
    variables = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
    done = subprocess.run(
        [Path(__file__).parents[1] / "docs" / "slurm.sh", "finetune", "--set", "a=b"], cwd=slurm,
        env={"PATH": f"{slurm}:{os.environ['PATH']}", **variables}, check=False,
    )  # fmt: skip
    assert done.returncode == code
    calls = (slurm / "calls").read_text().splitlines()
    assert calls[0].startswith("srun ")
    assert calls[0].endswith(" reforge finetune --set a=b")
    assert calls[1:] == (["scontrol requeue 7"] if requeued else [])
