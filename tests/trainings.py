"""Trainings on real ranks, killed and resumed at will, and what they leave."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_core.checkpoint import find_checkpoints, read_checkpoint
from megatron_core.config import PretrainConfig
from megatron_core.identity.fingerprints import Divergence, first_divergence, read_fingerprints
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.trainer import Trainer
from megatron_core.trainer.assemble import pretraining
from tests.ranks import run_ranks

Fault = Callable[[], None]


def train(
    tokens: Path,
    folder: Path,
    config: PretrainConfig,
    layout: str = "data=1",
    *,
    kill_at: int = 0,
    fault: Fault | None = None,
) -> bool:
    """Train on a layout; whether all ranks came to the end.

    Args:
        kill_at: Step in which the last rank dies; 0 spares it.
        fault: Called first on every rank, to plant a fault.
    """
    ranks = Layout.parse(layout).ranks
    return not any(run_ranks(_work, ranks, tokens, folder, config, layout, kill_at, fault))


def _work(
    tokens: Path, folder: Path, config: PretrainConfig, text: str, kill_at: int,
    fault: Fault | None,
) -> None:  # fmt: skip
    layout = Layout.parse(text)
    if fault is not None:
        fault()
    with open_mesh(layout, config.device, config.threads) as mesh:
        trainer = pretraining(config, tokens, {}, folder, mesh)
        if mesh.rank == layout.ranks - 1:
            kill_in(trainer, kill_at)
        trainer.train()


def kill_in(trainer: Trainer, step: int) -> None:
    """Let this process die in ``step``, once it has its gradient."""
    measure = trainer.engine.measure

    def dying(**options: bool) -> Any:
        if trainer.step + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(**options)

    trainer.engine.measure = dying  # type: ignore[method-assign]


@dataclass(frozen=True)
class Trained:
    """What a training left in ``folder``."""

    folder: Path

    @property
    def run(self) -> Path:
        """The folder of the run."""
        (run,) = self.folder.glob("pretrain-*")
        return run

    @property
    def roots(self) -> dict[int, str]:
        """The root of each checkpoint that was kept, by step."""
        found = [read_checkpoint(path) for path in find_checkpoints(self.run / "checkpoints")]
        return {checkpoint.step: checkpoint.root for checkpoint in found}

    @property
    def steps(self) -> str:
        """The log of the steps, which holds no time and no layout."""
        return (self.run / "steps.jsonl").read_text()

    def divergence(self, other: Trained) -> Divergence | None:
        """Where its fingerprints and another training's part."""
        found = first_divergence(read_fingerprints(self.run), read_fingerprints(other.run))
        assert not isinstance(found, str), found
        return found
