"""Curves reach their trackers, or the user hears why not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_core.errors import MissingExtraError, ReforgeError
from megatron_core.trainer.trackers import Trackers, open_tracker


def curve(folder: Path) -> list[list[str]]:
    lines = (folder / "dvclive/plots/metrics/loss.tsv").read_text().splitlines()
    return [line.split("\t") for line in lines]


def test_steps_before_a_resume_are_in_the_curve_once(tmp_path: Path) -> None:
    first = Trackers(["dvclive"], tmp_path, "run", [])
    for step in (1, 2, 3):
        first.log({"step": step, "loss": float(step)})
    first.close()
    resumed = Trackers(["dvclive"], tmp_path, "run", [{"step": 1, "loss": 1.0}])
    resumed.log({"step": 2, "loss": 20.0})
    resumed.close()
    assert curve(tmp_path) == [["step", "loss"], ["1", "1.0"], ["2", "20.0"]]


def test_an_empty_repository_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReforgeError, match="needs a first commit"):
        open_tracker("dvclive", tmp_path / "curves", "run")


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_missing_extra_names_its_command(kind: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(kind):
        pytest.skip(f"{kind} is installed")
    with pytest.raises(MissingExtraError, match=rf"pip install 'reforge-llm\[{kind}\]'"):
        open_tracker(kind, tmp_path, "run")
