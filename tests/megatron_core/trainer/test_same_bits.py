"""The promise: same recipe, same root, whatever the layout and however often it is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from megatron_core.checkpoint import first_difference, last_checkpoint
from megatron_core.config import AdamW, PretrainConfig
from megatron_core.parallel.launch import joined_ranks
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.trainer.assemble import pretraining
from tests.conftest import tiny_recipe
from tests.ranks import run_ranks


def work(tokens: Path, folder: Path, recipe: PretrainConfig, kill_at: int) -> None:
    """Train as one of the ranks that joined; the last of them dies at ``kill_at``."""
    layout = Layout(data=joined_ranks() or 1)
    with open_mesh(layout, recipe.device, recipe.threads) as mesh:
        trainer = pretraining(recipe, tokens, {}, folder, mesh)
        take_step = trainer._train_step

        def train_step() -> dict[str, Any]:
            if trainer.step + 1 == kill_at and mesh.rank == layout.ranks - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return take_step()

        trainer._train_step = train_step  # type: ignore[method-assign]
        trainer.train()


def train(
    tokens: Path, folder: Path, config: PretrainConfig, ranks: int = 1, kill_at: int = 0
) -> bool:
    """Train on ``ranks`` ranks; whether all of them succeeded."""
    return run_ranks(work, ranks, tokens, folder, config, kill_at) == [0] * ranks


def root(folder: Path) -> str:
    (run,) = folder.glob("pretrain-*")
    found = last_checkpoint(run / "checkpoints")
    assert found is not None
    assert found[1].step == 8
    return found[1].root


@pytest.fixture(scope="module")
def uninterrupted(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run every other one is compared with."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert train(tokens, folder, tiny_recipe())
    return folder


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_layouts_agree(
    ranks: int, tokens: Path, tiny: PretrainConfig, uninterrupted: Path, tmp_path: Path
) -> None:
    assert train(tokens, tmp_path, tiny, ranks)
    assert root(tmp_path) == root(uninterrupted)


@pytest.mark.parametrize(("killed_on", "resumed_on"), [(1, 1), (1, 2), (2, 1)])
def test_killed_and_resumed(
    killed_on: int, resumed_on: int, tokens: Path, tiny: PretrainConfig, uninterrupted: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    assert not train(tokens, tmp_path, tiny, killed_on, kill_at=6)
    (run,) = tmp_path.glob("pretrain-*")
    assert [p.name for p in (run / "checkpoints").glob("step-*")] == ["step-00000003"]
    assert train(tokens, tmp_path, tiny, resumed_on)
    assert root(tmp_path) == root(uninterrupted)
    ours = (run / "steps.jsonl").read_text()
    theirs = next(uninterrupted.glob("pretrain-*/steps.jsonl")).read_text()
    assert ours == theirs


def test_another_recipe_is_another_run(
    tokens: Path, tiny: PretrainConfig, uninterrupted: Path, tmp_path: Path
) -> None:
    other = tiny.model_copy(update={"optimizer": AdamW(learning_rate=1.1e-2)})
    assert train(tokens, tmp_path, other)
    assert root(tmp_path) != root(uninterrupted)
    ours, theirs = (
        next(folder.glob("pretrain-*/checkpoints/step-00000008"))
        for folder in (tmp_path, uninterrupted)
    )
    difference = first_difference(ours, theirs)
    assert difference is not None
    assert not isinstance(difference, str)
    assert difference.tensor == "first/embedding.weight"
