"""The order in which a training step happens."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from megatron_core.checkpoint import (
    Checkpoint,
    checkpoint_path,
    last_checkpoint,
    load_tensors,
    prune_checkpoints,
    save_checkpoint,
)
from megatron_core.collectives import TreeAccumulator, gather_numbers, tree_sum
from megatron_core.config import TrainingConfig
from megatron_core.errors import IntegrityError, ReforgeError
from megatron_core.identity import Environment, likely_causes
from megatron_core.optimizer import (
    AdamWState,
    FlatLayout,
    clip_coefficient,
    global_norm,
    learning_rate,
)
from megatron_core.parallel.mesh import Mesh
from megatron_core.progress import progress_bar
from megatron_core.trainer.gradients import GradientAccumulator
from megatron_core.trainer.objective import Objective
from megatron_core.trainer.run import TrainingRun
from megatron_core.trainer.trackers import Trackers

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Trainer:
    """Trains ``model`` on ``objective`` and leaves checkpoints in the folder of ``run``.

    The state is the flat buffers of AdamW and the step; everything else is a pure function of
    them and the recipe, so a checkpoint resumes on any layout with the same bits.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        config: TrainingConfig,
        *,
        run: TrainingRun,
        mesh: Mesh,
    ) -> None:
        self.objective, self.config, self.run, self.mesh = objective, config, run, mesh
        self.model = model.to(mesh.device)
        tied: dict[str, str] = getattr(model, "tied", {})
        shapes = {n: p.shape for n, p in model.named_parameters() if n not in tied}
        self.state = AdamWState(FlatLayout(shapes), mesh.device)
        self._adopt_parameters(tied)
        self.gradients = GradientAccumulator(self.model, self.state.layout, tied)
        self.step = 0
        self.seconds = 0.0
        self.steps_taken = 0

    def train(self) -> tuple[Path, Checkpoint]:
        """Resume from the last whole checkpoint, or start, and go to the last step.

        Raises:
            ReforgeError: the loss is not a number; nothing after the last checkpoint is kept.
            IntegrityError: the checkpoint to resume from is of another run.
        """
        resumed = self._resume()
        records = self.run.cut_steps(self.step) if self.mesh.is_first else []
        if resumed and self.step == self.config.steps:
            return resumed
        kinds = self.config.trackers if self.mesh.is_first else []
        trackers = Trackers(kinds, self.run.folder / "curves", self.run.folder.name, records)
        saved = resumed
        columns = ("loss {task.fields[loss]:.3f}", "{task.fields[rate]:,.0f} tokens/s")
        with progress_bar(*columns, shown=self.mesh.is_first) as bar:
            task = bar.add_task(
                self.run.folder.name.rpartition("-")[0], total=self.config.steps,
                completed=self.step, loss=float("nan"), rate=0.0,
            )  # fmt: skip
            while self.step < self.config.steps:
                started = time.monotonic()
                record = self._train_step()
                elapsed = time.monotonic() - started
                self.seconds, self.steps_taken = self.seconds + elapsed, self.steps_taken + 1
                if self.step % self.config.validate_every == 0 or self.step == self.config.steps:
                    record.update(self._heldout())
                if self.mesh.is_first:
                    self.run.log_step(record)
                    trackers.log(record)
                bar.update(
                    task, completed=self.step, loss=record["loss"], rate=self.tokens_per_second
                )
                if self._checkpoint_due():
                    saved = self._save()
        trackers.close()
        if saved is None:
            raise ReforgeError("no checkpoint was written: the last step did not save")
        return saved

    @property
    def tokens_per_second(self) -> float:
        """Tokens over the time spent in steps since this process started or resumed."""
        tokens = self.config.batch.sequences * self.config.sequence_length * self.steps_taken
        return tokens / self.seconds if self.seconds else 0.0

    def _train_step(self) -> dict[str, Any]:
        """One optimizer step: gradients, loss, norm, clip, update."""
        step = self.step + 1
        gradient, loss = self._gradient(step)
        if not math.isfinite(loss):
            raise ReforgeError(
                f"the loss of step {step} is {loss}, and no update was made: lower "
                "optimizer.learning_rate or look at the data of that step; the last checkpoint "
                f"in {self.run.checkpoints} is good"
            )
        norm = global_norm(self.state.layout.views(gradient))
        gradient.mul_(clip_coefficient(norm, self.config.optimizer.clip))
        rate = learning_rate(
            step,
            peak=self.config.optimizer.learning_rate,
            steps=self.config.steps,
            schedule=self.config.schedule,
        )
        self.state.update(gradient, step=step, rate=rate, config=self.config.optimizer)
        self._publish_weights()
        self.step = step
        return {"step": step, "loss": loss, "learning_rate": rate, "gradient_norm": norm}

    def _gradient(self, step: int) -> tuple[Tensor, float]:
        """The flat gradient of the mean loss over the batch, and that loss."""
        grid, batch = self.config.grid, self.config.batch
        per_shard = batch.sequences // grid.data
        first = (step - 1) * batch.sequences
        tree, losses, counts = TreeAccumulator(), [], []
        self.model.train()
        for shard in self.mesh.owned_shards(grid.data):
            buffer = self.gradients.begin_shard()
            loss, count = 0.0, 0
            start = first + shard * per_shard
            for sample in range(start, start + per_shard, batch.microbatch):
                part = self.objective.loss(self.model, range(sample, sample + batch.microbatch))
                part.total.backward()  # type: ignore[no-untyped-call]
                loss, count = loss + float(part.total.detach()), count + part.count
            tree.push(buffer)
            losses.append(loss)
            counts.append(count)
        total = tree_sum(gather_numbers(losses, self.mesh.data_group))
        tokens = int(tree_sum(gather_numbers([float(c) for c in counts], self.mesh.data_group)))
        return self.gradients.total(tree, self.mesh, tokens), total / tokens

    def _heldout(self) -> dict[str, float]:
        """Held-out loss on the first rank; the others go on and wait at the next exchange."""
        if not self.mesh.is_first:
            return {}
        self.model.eval()
        part = self.objective.heldout(self.model)
        return {"heldout_loss": float(part.total) / part.count} if part.count else {}

    def _adopt_parameters(self, tied: dict[str, str]) -> None:
        """Move the weights into the flat buffer and let the model compute from there."""
        dtype = _DTYPES[self.config.precision]
        parameters = dict(self.model.named_parameters())
        self._main = self.state.layout.views(self.state.weights)
        self._copies: dict[str, Tensor] = {}
        for name, view in self._main.items():
            view.copy_(parameters[name].data)
            parameters[name].data = view
            if dtype != torch.float32:
                parameters[name].data = self._copies[name] = view.to(dtype)
        for name, owner in tied.items():
            parameters[name].data = parameters[owner].data

    def _publish_weights(self) -> None:
        """Cast main weights into the model's lower-precision copies; fp32 shares storage."""
        for name, copy in self._copies.items():
            copy.copy_(self._main[name])

    def _resume(self) -> tuple[Path, Checkpoint] | None:
        self.run.checkpoints.mkdir(parents=True, exist_ok=True)
        found = last_checkpoint(self.run.checkpoints)
        if found is None:
            return None
        path, checkpoint = found
        if checkpoint.run != self.run.identity:
            raise IntegrityError(
                f"{path} is of another recipe or other inputs: move it out of {self.run.folder}"
            )
        load_tensors(path, self.state.tensors())
        self._publish_weights()
        self.step = checkpoint.step
        if self.mesh.is_first:
            logger.info("resuming from %s", path)
            for cause in likely_causes(Environment.current(), checkpoint.environment):
                logger.warning("the bits may differ from an uninterrupted run's: %s", cause)
        return found

    def _checkpoint_due(self) -> bool:
        every = self.config.checkpoints.every
        return self.step % every == 0 or self.step == self.config.steps

    def _save(self) -> tuple[Path, Checkpoint]:
        path = checkpoint_path(self.run.checkpoints, self.step)
        checkpoint = save_checkpoint(
            path,
            self.state.tensors(),
            step=self.step,
            run=self.run.identity,
            model=self.run.model,
            layout=self.mesh.layout.degrees(),
        )
        if self.mesh.is_first:
            prune_checkpoints(self.run.checkpoints, self.config.checkpoints.keep_last)
        return path, checkpoint
