"""What the training stages share: leave a finished run in the artifact, report its numbers."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from megatron_core.checkpoint import Checkpoint
from megatron_core.trainer import Trainer


def publish(trainer: Trainer, output: Path) -> None:
    """Copy checkpoints, step log and curves of a finished run into ``output``."""
    run = trainer.run
    shutil.copytree(run.checkpoints, output / "checkpoints", ignore=shutil.ignore_patterns(".step-*"))
    shutil.copy(run.steps, output / "steps.jsonl")
    if (run.folder / "curves").exists():
        shutil.copytree(run.folder / "curves", output / "curves")


def training_metrics(trainer: Trainer, final: Checkpoint) -> dict[str, Any]:
    """Losses of a finished run in nats per token (or per example), and its size."""
    records = trainer.run.read_steps(final.step)
    losses = [record["loss"] for record in records[-10:]]
    metrics: dict[str, Any] = {
        "steps": final.step,
        "parameters": sum(math.prod(s) for s in trainer.state.layout.shapes.values()),
        "loss": sum(losses) / len(losses),
    }
    heldout = [record["heldout_loss"] for record in records if "heldout_loss" in record]
    if heldout:
        metrics["heldout_loss"] = heldout[-1]
        metrics["heldout_perplexity"] = math.exp(heldout[-1])
    if trainer.tokens_per_second:
        metrics["tokens_per_second"] = round(trainer.tokens_per_second, 1)
    return metrics
