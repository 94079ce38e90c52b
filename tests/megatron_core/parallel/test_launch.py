"""How a process learns that it is one of several ranks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from megatron_core.errors import ConfigError
from megatron_core.parallel.launch import is_first_rank, joined_ranks

KNOWN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher; what the test sets is taken back."""
    slurm = [name for name in os.environ if name.startswith("SLURM_")]
    for name in (*KNOWN, *slurm):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_alone() -> None:
    assert joined_ranks() is None
    assert is_first_rank()


def test_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert joined_ranks() == 8
    assert not is_first_rank()


def slurm(monkeypatch: pytest.MonkeyPatch, tasks: int) -> None:
    for name, value in {
        "NTASKS": tasks, "PROCID": 5, "LOCALID": 1, "JOB_ID": 123456, "STEP_NODELIST": "n[7-8]",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", str(value))


def test_under_srun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slurm(monkeypatch, tasks=8)
    command = tmp_path / "scontrol"
    command.write_text('#!/bin/sh\n[ "$*" = "show hostnames n[7-8]" ] && printf "n7\\nn8\\n"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert joined_ranks() == 8
    assert {name: os.environ[name] for name in KNOWN} == {
        "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "n7",
        "MASTER_PORT": "23456",
    }  # fmt: skip


def test_srun_without_a_host_list_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm(monkeypatch, tasks=2)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"cannot tell the first host .*: set MASTER_ADDR"):
        joined_ranks()


def test_a_slurm_job_of_one_task_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm(monkeypatch, tasks=1)
    assert joined_ranks() is None
