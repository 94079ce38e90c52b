"""A project outside the clone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from megatron_core.config import STAGES, load_recipe
from megatron_core.errors import ConfigError, ReforgeError
from stages.init import init, recipes, scales

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe_starts_a_project(recipe: str, tmp_path: Path) -> None:
    project = tmp_path / "project"
    init(recipe, project)
    load_recipe(project / "params.yaml")
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"],
        cwd=project, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert "pretrain" in listed
    ignored = subprocess.run(
        ["git", "check-ignore", "artifacts/ingest", "runs/x", "metrics/ingest.json"],
        cwd=project, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert len(ignored) == 3
    log = subprocess.run(
        ["git", "log", "--format=%an %s"], cwd=project, capture_output=True, text=True, check=True
    )
    assert log.stdout == "reforge Start from a recipe\n"
    status = subprocess.run(["git", "status", "--porcelain"], cwd=project, capture_output=True)
    assert status.stdout == b""


def test_the_root_is_the_laptop_recipe() -> None:
    for name in ("params.yaml", "dvc.yaml"):
        assert (ROOT / "pipelines/laptop" / name).read_text() == (ROOT / name).read_text()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty: name a new folder"):
        init("laptop", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    init("laptop", tmp_path / "empty")
    assert (tmp_path / "empty/dvc.yaml").exists()


def test_a_machine_without_git_hears_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReforgeError, match="git was not found"):
        init("laptop", tmp_path / "project")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", [name for name in recipes() if "tiny" in scales(name)])
def test_a_tiny_project_is_the_same_pipeline(recipe: str, tmp_path: Path) -> None:
    project = tmp_path / "project"
    init(recipe, project, scale="tiny")
    tiny = (ROOT / "pipelines" / recipe / "tiny.yaml").read_text()
    assert (project / "params.yaml").read_text() == tiny
    pipeline = yaml.safe_load((project / "dvc.yaml").read_text())
    assert tuple(pipeline["stages"]) == STAGES
    assert (project / "dialogues.csv").exists() == (recipe == "gatortrongpt")
    assert "dialogues.csv" not in (project / ".gitignore").read_text()


def test_a_scale_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--scale huge: gatortron has full and tiny"):
        init("gatortron", tmp_path / "project", scale="huge")
    with pytest.raises(ConfigError, match="--scale tiny: laptop has full"):
        init("laptop", tmp_path / "project", scale="tiny")
    assert list(tmp_path.iterdir()) == []


def test_what_the_user_brings_is_watched_and_never_committed(tmp_path: Path) -> None:
    project = tmp_path / "project"
    init("gatortron", project)
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    assert stages["ingest"]["deps"] == ["notes", "pubmed", "wikipedia"]
    assert stages["finetune"]["deps"][-1] == "tasks/emrqa/test.json"
    assert stages["finetune"]["deps"][0] == "artifacts/decontaminate"
    assert stages["curate"]["deps"] == ["artifacts/ingest"]
    for path in ("notes/a.jsonl.gz", "tasks/n2c2_2018/train/1.txt"):
        (project / path).parent.mkdir(parents=True)
        (project / path).write_text("A patient.")
    status = subprocess.run(
        ["git", "status", "--porcelain", "-uall"], cwd=project, capture_output=True, text=True
    )
    assert status.stdout == ""


def test_curves_of_every_training_are_drawn(tmp_path: Path) -> None:
    project = tmp_path / "project"
    init("gatortron", project)
    plots = yaml.safe_load((project / "dvc.yaml").read_text())["plots"]
    drawn = {path.split("/curves")[0] for plot in plots for path in next(iter(plot.values()))["y"]}
    assert {"artifacts/pretrain", "artifacts/finetune/concepts-1"} <= drawn
    assert len(plots) == 2 * 6
