"""What the training stages share: train, leave the finished run in the artifact, report it."""

from __future__ import annotations

import logging
import math
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernels.registry import Choice
from megatron_core.checkpoint import Checkpoint, checkpoint_path, save_weights
from megatron_core.conversion import tensor_shapes
from megatron_core.errors import IntegrityError
from megatron_core.exchange import WHOLE
from megatron_core.files import write_json, write_text
from megatron_core.parallel.launch import is_first_rank
from megatron_core.trainer import Trainer
from megatron_core.trainer.assemble import describe
from megatron_core.trainer.profile import Profiler
from megatron_core.trainer.start import open_start
from stages.run import StageRun, open_input

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A finished run: its last checkpoint, and on the first rank its numbers.

    ``path`` is where the model lies: the checkpoint, or the whole one where an adapter was trained.
    """

    path: Path
    checkpoint: Checkpoint
    metrics: dict[str, Any] = field(default_factory=dict)
    kernels: dict[str, str] = field(default_factory=dict)

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers, and what computed them."""
        by_backend = defaultdict(list)
        for operation, backend in self.kernels.items():
            by_backend[backend].append(operation)
        shown = "; ".join(f"{name}: {', '.join(of)}" for name, of in sorted(by_backend.items()))
        return {**self.metrics, "kernels": shown}


def tokenizer_of_tokens(run: StageRun) -> Path | None:
    """The tokenizer that a model to begin with must have; None where the recipe names no model.

    Raises:
        ReforgeError: it is not here, or is not the one that made the tokens.
    """
    if run.recipe.pretrain.start is None:
        return None
    made_with = open_input(run.name, "tokenize").inputs.get("tokenizer")
    if open_input(run.name, "tokenizer").root != made_with:
        raise IntegrityError(
            f"{run.input('tokenize')} was not made with {run.input('tokenizer')}: run `reforge "
            "tokenize` again"
        )
    return run.input("tokenizer")


def take_over(run: StageRun) -> None:
    """Leave the model of ``pretrain.start`` in the artifact, as a run of no steps; one rank does.

    Raises:
        ReforgeError: it is not the recipe's model, cannot be mapped exactly, or has another
            tokenizer than the tokens.
    """
    config = run.recipe.pretrain
    tokenizer = tokenizer_of_tokens(run)
    if config.start is None or not is_first_rank():
        return
    start = open_start(Path(config.start), config.model, tokenizer)
    checkpoint = save_weights(
        checkpoint_path(run.output / "checkpoints", 0), start.weights, tensor_shapes(start.config),
        run="taken over", model=describe(config.model),
    )  # fmt: skip
    write_text(run.output / "steps.jsonl", "")
    run.content = {"model": checkpoint.root}
    sizes = (math.prod(placement.shape) for placement in checkpoint.tensors.values())
    metrics = {"steps": 0, "parameters": sum(sizes)}
    run.metrics(metrics)
    run.summary({"taken from": config.start, **metrics})


def train(trainer: Trainer, output: Path, *, profile: bool = False) -> Trained:
    """Train to the end; the first rank copies checkpoints, step log and curves to ``output``.

    With ``profile`` a trace of some steps is left in the run's folder, and there alone.
    """
    run, config = trainer.run, trainer.config
    if profile:
        tokens = config.batch.sequences * config.sequence_length
        trainer.profiler = Profiler(run.folder / "profile", trainer.mesh, tokens=tokens)
    if trainer.mesh.is_first:
        _tell_refused(trainer.engine.choices)
    path, checkpoint = trainer.train()
    if (run.folder / WHOLE).exists():
        path = run.folder / WHOLE
    if not trainer.mesh.is_first:
        return Trained(path, checkpoint)
    shutil.copytree(
        run.checkpoints, output / "checkpoints", ignore=shutil.ignore_patterns(".step-*")
    )
    shutil.copy(run.steps, output / "steps.jsonl")
    choices = trainer.engine.choices
    write_json(
        output / "kernels.json", {one.operation: [one.backend, one.reason] for one in choices}
    )
    kernels = {one.operation: one.backend for one in choices}
    for name in ("fingerprints.json", "fingerprints.bin"):
        if (run.folder / name).exists():
            shutil.copy(run.folder / name, output / name)
    for name in ("curves", WHOLE):
        if (run.folder / name).exists():
            shutil.copytree(run.folder / name, output / name)
    return Trained(path, checkpoint, _metrics(trainer, checkpoint.step), kernels)


def _tell_refused(choices: Sequence[Choice]) -> None:
    """Say which faster kernels `auto` would have taken, and what they lack."""
    by_reason = defaultdict(list)
    for one in choices:
        if one.refused:
            by_reason[one.reason].append(one.operation)
    for reason, operations in by_reason.items():
        logger.info("kernels: %s by definition; %s", ", ".join(operations), reason)


def _metrics(trainer: Trainer, steps: int) -> dict[str, Any]:
    """Losses in nats per token (or per example), the size of the model, the speed."""
    records = trainer.run.read_steps(steps)
    losses = [record["loss"] for record in records[-10:]]
    metrics: dict[str, Any] = {
        "steps": steps,
        "parameters": sum(math.prod(placement.shape) for placement in trainer.placements.values()),
        "loss": sum(losses) / len(losses),
    }
    heldout = [record["heldout_loss"] for record in records if "heldout_loss" in record]
    if heldout:
        metrics["heldout_loss"] = heldout[-1]
        metrics["heldout_perplexity"] = math.exp(heldout[-1])
    if trainer.tokens_per_second:
        metrics["tokens_per_second"] = round(trainer.tokens_per_second, 1)
    return metrics
