"""Ranks that exist already are joined; those that are launched are watched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from megatron_core.errors import ConfigError, ReforgeError
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


def test_a_rank_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing.py").write_text(
        "import os, sys, time\nif os.environ['RANK'] == '1': sys.exit(3)\ntime.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ReforgeError, match="rank 1 ended with exit code 3"):
        launch(2, "failing", [])


def test_ranks_that_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "noting.py").write_text(
        "import os, pathlib, sys\n"
        "pathlib.Path(sys.argv[1], os.environ['RANK']).write_text(os.environ['WORLD_SIZE'])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    launch(2, "noting", [str(tmp_path)])
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["2", "2"]
