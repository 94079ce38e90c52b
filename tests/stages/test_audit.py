"""``reforge audit`` of runs: compared down to the step, and trained again from a checkpoint."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_core.optimizer import AdamWState
from stages.app import main
from tests.trainable import environment, run, write_trainable


class Reforge:
    """The command line in a project folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Exit code and what stood on stderr, with line breaks of the console undone."""
        self._monkeypatch.setattr(sys, "argv", ["reforge", *arguments])
        self._capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        return int(code), " ".join(self._capsys.readouterr().err.split())


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that is trained; it keeps the checkpoints of steps 4, 8 and 12."""
    folder = write_trainable(tmp_path_factory.mktemp("template"))
    params = folder / "params.yaml"
    recipe = params.read_text().replace("steps: 60", "steps: 12")
    params.write_text(recipe.replace("{every: 1000}", "{every: 4, keep_last: 3}"))
    code, said = run(folder, "reforge", "pretrain", "--layout", "data=1")
    assert code == 0, said
    return folder


@pytest.fixture
def reforge(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Reforge:  # fmt: skip
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in {"RANK", "WORLD_SIZE", "REFORGE_LAYOUT"} - environment().keys():
        monkeypatch.delenv(name, raising=False)
    return Reforge(tmp_path, monkeypatch, capsys)


def test_a_replay_agrees_from_any_kept_step(reforge: Reforge) -> None:
    before = sorted(path for path in reforge.folder.rglob("*") if path.is_file())
    for step in ("4", "8"):
        code, said = reforge("audit", "--replay", step)
        assert code == 0, said
        assert f"steps {int(step) + 1} to 12 agree bit for bit" in said
        assert f"the fingerprints of {12 - int(step)} steps agree, up to step 12" in said
    assert sorted(path for path in reforge.folder.rglob("*") if path.is_file()) == before


def test_a_replay_on_another_layout(reforge: Reforge) -> None:
    code, said = run(reforge.folder, "reforge", "audit", "--replay", "8", "--layout", "data=2")
    assert code == 0, said
    assert said.count("steps 9 to 12 agree bit for bit") == 1
    assert not list(reforge.folder.glob("runs/replay-*"))


def test_a_replay_that_gives_other_bits(reforge: Reforge, monkeypatch: pytest.MonkeyPatch) -> None:
    update = AdamWState.update

    def worse(self: AdamWState, gradient: Any, *, step: int, **settings: Any) -> None:
        if step == 10:
            gradient = gradient * (1 + 2**-20)
        update(self, gradient, step=step, **settings)

    monkeypatch.setattr(AdamWState, "update", worse)
    code, said = reforge("audit", "--replay", "8")
    assert code == 1
    assert "they part in the update of step 10: the weights of " in said
    assert "checkpoints of step 12: " in said
    assert "likely cause: nothing recorded of the recipe" in said
    assert not list(reforge.folder.glob("runs/replay-*"))


@pytest.mark.parametrize("step", ["5", "12"])
def test_a_step_that_is_not_kept(step: str, reforge: Reforge) -> None:
    code, said = reforge("audit", "--replay", step)
    assert code == 1
    assert f"cannot retrain from step {step}: " in said
    assert "keeps 4, 8, 12" in said


def test_a_replay_needs_the_recipe_that_trained(reforge: Reforge) -> None:
    code, said = reforge("audit", "--replay", "4", "--set", "pretrain.seed=2")
    assert code == 1
    assert "is of another recipe or other inputs than are here now" in said


def test_a_layout_is_for_a_replay(reforge: Reforge) -> None:
    code, said = reforge("audit", "--layout", "data=2")
    assert code == 2
    assert "goes with --replay STEP" in said
    code, said = reforge("audit", "--replay", "4", "--layout", "data=3")
    assert code == 2
    assert "data=3 must divide pretrain.grid.data = 4" in said


def test_the_plan_of_a_replay(reforge: Reforge) -> None:
    assert reforge("audit", "--replay", "4", "--dry-run")[0] == 0


def test_two_runs_are_compared(reforge: Reforge) -> None:
    (run_folder,) = Path("runs").glob("pretrain-*")
    code, said = reforge("audit", str(run_folder), "artifacts/pretrain")
    assert code == 0
    assert "the same bits: both have root " in said
    shutil.move(run_folder, "ours")
    code, said = reforge("pretrain", "--layout", "data=1", "--set", "pretrain.seed=2")
    assert code == 0, said
    (other,) = Path("runs").glob("pretrain-*")
    code, said = reforge("audit", "ours", str(other))
    assert code == 1
    assert "they part before step 1, the first that both recorded: the weights of embed" in said
    assert "checkpoints of step 4: 60 tensors differ; the first in name order is first/emb" in said
    assert "likely cause: the recipe or the inputs: the two runs have different identities" in said
    shutil.rmtree(other / "checkpoints")
    (other / "checkpoints").mkdir()
    for name in ("fingerprints.json", "fingerprints.bin"):
        (other / name).unlink()
    code, said = reforge("audit", "ours", str(other))
    assert code == 1
    assert "not determined: they keep no checkpoint of an equal step (ours: 4, 8, 12 and " in said
