"""Retrain the last steps of a finished run and compare them with what was recorded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_core.errors import IntegrityError
from stages.run import RUNS, StageRun

if TYPE_CHECKING:
    from megatron_core.audit import Comparison
    from megatron_core.config import PretrainConfig
    from megatron_core.trainer import Trainer


def replay(run: StageRun, step: int | None) -> tuple[Comparison, dict[str, Any]] | None:
    """Train ``pretrain`` again from its checkpoint of ``step``, on the layout of ``run``.

    All ranks call it. What it writes is gone at the end.

    Args:
        run: A stage that has ``pretrain`` and ``tokenize`` among its inputs.
        step: Of a checkpoint that is kept; None takes the last but one.

    Returns:
        On the first rank how the retrained run compares with the recorded one, and the same as the
        audit records it; None on the others, or when ``step`` is None and only one is kept.

    Raises:
        IntegrityError: there is no such checkpoint, or the recipe is not that of the artifact.
    """
    from megatron_core.audit import compare_runs, start_of_replay
    from megatron_core.checkpoint import read_checkpoint
    from megatron_core.parallel.mesh import open_mesh
    from megatron_core.trainer.assemble import pretraining
    from stages.training import tokenizer_of_tokens

    recorded = run.input("pretrain")
    start = start_of_replay(recorded, step)
    if start is None:
        return None
    before = read_checkpoint(start)
    config = _replayed(run.recipe.pretrain)
    with open_mesh(run.layout, config.device, config.threads) as mesh:
        inputs = {"tokenize": run.input_roots["tokenize"]}
        folder = RUNS / f"replay-{before.run[:12]}"
        trainer = pretraining(
            config, run.input("tokenize"), inputs, folder, mesh,
            tokenizer=tokenizer_of_tokens(run),
        )  # fmt: skip
        if before.run != trainer.run.identity:
            raise IntegrityError(
                f"{start} is of another recipe or other inputs than are here now: run "
                "`reforge pretrain` again, or restore its recipe"
            )
        try:
            _place(start, trainer, folder)
            _, after = trainer.train()
            if not mesh.is_first:
                return None
            comparison = compare_runs(trainer.run.folder, recorded)
        finally:
            if mesh.is_first:
                shutil.rmtree(folder, ignore_errors=True)
    there = read_checkpoint(recorded / "checkpoints" / f"step-{after.step:08d}")
    return comparison, {
        "from_step": before.step,
        "to_step": after.step,
        "recorded_root": there.root,
        "root": after.root,
        "same": comparison.same is True,
        "recorded_layout": there.layout,
        "layout": run.layout.degrees(),
        "verdict": f"steps {before.step + 1} to {after.step} agree bit for bit",
    }


def _replayed(config: PretrainConfig) -> PretrainConfig:
    """The same training, of which only the end is kept."""
    checkpoints = config.checkpoints.model_copy(update={"every": config.steps, "keep_last": 2})
    return config.model_copy(update={"trackers": [], "checkpoints": checkpoints})


def _place(start: Path, trainer: Trainer, folder: Path) -> None:
    """Let ``trainer`` find ``start`` in its empty run; the ranks go on together."""
    if trainer.mesh.is_first:
        shutil.rmtree(folder, ignore_errors=True)
        trainer.run.checkpoints.mkdir(parents=True)
        (trainer.run.checkpoints / start.name).symlink_to(start.absolute())
    trainer.mesh.any(False)
