"""Tasks as jobs of Slurm and Ray. Slurm is played by scripts that run the jobs at once."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from megatron_core.config import RayExecution, SlurmExecution
from megatron_core.data.tasks import Tasks, cluster
from megatron_core.errors import CorpusError, MissingExtraError, ReforgeError

# Runs each task of the array in a process of its own, as a node would, and prints the job's id.
SBATCH = """\
#!{python}
import os, re, subprocess, sys
script = sys.stdin.read() if sys.argv[-1].startswith("-") else open(sys.argv[-1]).read()
open({log!r}, "a").write(script + "\\n")
last = int(re.search(r"#SBATCH --array=0-(\\d+)", script)[1])
offset = re.search(r"RUN_OFFSET=(\\d+)", " ".join(sys.argv))
for task in range(last + 1):
    environment = os.environ | {{"SLURM_ARRAY_TASK_ID": str(task), "SLURM_NODELIST": "here"}}
    environment["RUN_OFFSET"] = offset[1] if offset else "0"
    environment["PYTHONPATH"] = {root!r}  # where this module is found
    subprocess.run(["bash", "-c", script], env=environment, capture_output=True)
print("Submitted batch job 7")
"""
ROOT = Path(__file__).parents[4]
SLURM = SlurmExecution(kind="slurm", partition="cpu", options={"account": "hospital"})


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with Slurm's commands on the path; its ``log`` has what was submitted."""
    for name, text in (
        ("sbatch", SBATCH.format(python=sys.executable, log=str(tmp_path / "log"), root=str(ROOT))),
        ("squeue", "#!/bin/sh\n"),
        ("scontrol", "#!/bin/sh\necho here\n"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755 | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(cluster, "_PATIENCE", 0.0)
    return tmp_path


def square(number: int) -> int:
    if number < 0:
        raise CorpusError(f"{number} is no document")
    return number**2


def crash(number: int) -> int:
    os._exit(1)


def test_slurm_does_what_a_loop_does(slurm: Path) -> None:
    assert list(Tasks(slurm / "tasks", SLURM).map("squares", square, [3, 1, 2])) == [9, 1, 4]
    script = (slurm / "log").read_text()
    for wanted in ("--partition=cpu", "--account=hospital", "--array=0-2", "--time=24:00:00"):
        assert f"#SBATCH {wanted}" in script


def test_slurm_does_what_is_missing_alone(slurm: Path) -> None:
    tasks = Tasks(slurm / "tasks", SLURM)
    with pytest.raises(CorpusError, match="-5 is no document"):
        list(tasks.map("squares", square, [3, -5, 2]))
    (slurm / "log").unlink()
    assert list(tasks.map("squares", square, [3, 5, 2])) == [9, 25, 4]
    assert "--array=0-0" in (slurm / "log").read_text()
    (slurm / "log").unlink()
    assert list(tasks.map("squares", square, [3, 5, 2])) == [9, 25, 4]
    assert not (slurm / "log").exists()


def test_jobs_that_end_without_a_result_are_named(slurm: Path) -> None:
    with pytest.raises(ReforgeError, match="slurm jobs ended without task 0 of squares: see "):
        list(Tasks(slurm / "tasks", SLURM).map("squares", crash, [1]))


def test_no_slurm_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReforgeError, match="there is no `sbatch` here"):
        list(Tasks(tmp_path, SLURM).map("squares", square, [1]))


def test_ray_does_what_a_loop_does(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray, the extra `ray`, is not installed")
    execution = RayExecution(kind="ray", address="local", workers=2)
    try:
        found = list(Tasks(tmp_path, execution).map("squares", square, [3, 1, 2]))
    finally:
        ray.shutdown()
    assert found == [9, 1, 4]


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"reforge-llm\[ray\]"):
        list(Tasks(tmp_path, RayExecution(kind="ray")).map("squares", square, [1]))
