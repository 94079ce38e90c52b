"""What a training run is known by, and its log of steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_core.trainer import TrainingRun

ABOUT: dict[str, Any] = {
    "name": "pretrain",
    "recipe": {"steps": 3, "grid": {"data": 2}},
    "inputs": {"tokenize": "aa"},
    "model": {"kind": "decoder"},
}


def identity(**changes: Any) -> str:
    about = {**ABOUT, **changes}
    return TrainingRun.of(Path("runs"), about.pop("name"), **about).identity


def test_a_run_is_known_by_what_can_change_its_bits() -> None:
    turned = dict(reversed(ABOUT["recipe"].items()))
    assert identity() == identity(recipe=turned)
    others = [
        identity(name="continued"), identity(recipe={"steps": 4}), identity(model={}),
        identity(inputs={"tokenize": "ab"}), identity(inputs={"start": "aa"}),
    ]  # fmt: skip
    assert len({identity(), *others}) == 6
    run = TrainingRun.of(Path("runs"), **ABOUT)
    assert run.folder == Path("runs") / f"pretrain-{identity()[:12]}"


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    """A run that logged five steps."""
    run = TrainingRun(tmp_path, "identity")
    for step in range(1, 6):
        run.log_step({"step": step, "loss": 1 / step})
    return run


def test_steps_come_back(run: TrainingRun) -> None:
    assert run.read_steps(5) == [{"step": n, "loss": 1 / n} for n in range(1, 6)]
    assert run.read_steps(0) == []
    assert TrainingRun(run.folder / "new", "identity").read_steps(5) == []


@pytest.mark.parametrize("up_to", [0, 3, 5, 9])
def test_later_steps_are_forgotten(up_to: int, run: TrainingRun) -> None:
    kept = run.cut_steps(up_to)
    assert [record["step"] for record in kept] == list(range(1, min(up_to, 5) + 1))
    assert [json.loads(line) for line in run.steps.read_text().splitlines()] == kept


@pytest.mark.parametrize("torn", [1, 2, 10, 25])
def test_a_torn_last_line_is_none(torn: int, run: TrainingRun) -> None:
    whole = run.steps.read_text()
    run.steps.write_text(whole[:-torn])
    kept = 5 if torn == 1 else 4  # without its newline alone the last line is whole
    assert [record["step"] for record in run.cut_steps(9)] == list(range(1, kept + 1))
    for step in range(kept + 1, 6):
        run.log_step({"step": step, "loss": 1 / step})
    assert run.steps.read_text() == whole
