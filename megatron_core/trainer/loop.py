"""The order in which a training step happens."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from megatron_core.checkpoint import (
    Checkpoint,
    CheckpointSaver,
    Part,
    Placement,
    checkpoint_path,
    last_checkpoint,
    load_parts,
)
from megatron_core.errors import IntegrityError, Interrupted, NumericalError, ReforgeError
from megatron_core.identity import Environment, likely_causes
from megatron_core.identity.fingerprints import FingerprintLog
from megatron_core.optimizer import clip_coefficient, learning_rate
from megatron_core.optimizer.scaling import LossScaler
from megatron_core.parallel.batch import Batch
from megatron_core.parallel.engine import Engine
from megatron_core.parallel.interrupts import Interrupts
from megatron_core.parallel.measure import Measured
from megatron_core.parallel.watchdog import Watchdog
from megatron_core.progress import progress_bar
from megatron_core.regions import Region, region
from megatron_core.trainer.objective import Objective
from megatron_core.trainer.profile import Profiler
from megatron_core.trainer.read_ahead import ReadAhead
from megatron_core.trainer.run import TrainingRun
from megatron_core.trainer.trackers import Trackers

logger = logging.getLogger(__name__)


class Trainer:
    """Trains the model of ``engine`` and leaves checkpoints in the folder of ``run``.

    The state is the weights and moments of AdamW, the loss scale and the step; everything else is
    a pure function of them and the recipe, so a checkpoint resumes on any layout with the same
    bits.
    """

    def __init__(self, engine: Engine, objective: Objective, *, run: TrainingRun) -> None:
        self.engine, self.objective, self.run = engine, objective, run
        self.config, self.mesh = engine.config, engine.mesh
        self.scaler = LossScaler(
            self.config.loss_scale if self.config.precision == "fp16" else None
        )
        self.saver = CheckpointSaver(self.mesh.groups.get("checkpoint"))
        self.placements = {
            shard.tensor: Placement(shape=shard.shape, axis=shard.axis, shards=shard.shards)
            for shard in engine.catalogue.values()
        }
        self._fingerprints: FingerprintLog | None = None
        self.profiler: Profiler | None = None
        self._read: Callable[[range], Batch] = objective.read
        self.step = 0
        self.seconds = 0.0
        self.steps_taken = 0

    def train(self) -> tuple[Path, Checkpoint]:
        """Resume from the last whole checkpoint, or start, and go to the last step.

        Raises:
            ReforgeError: the loss or a gradient is not a number, or a checkpoint could not be
                written; those before it are whole.
            IntegrityError: the checkpoint to resume from is of another run.
            Interrupted: a signal asked for an end, and the state is saved.
        """
        resumed = self._resume()
        records = self.run.cut_steps(self.step) if self.mesh.is_first else []
        if resumed and self.step == self.config.steps:
            if self.profiler is not None and self.mesh.is_first:
                logger.warning("%s is finished: no step is left to profile", self.run.folder)
            return resumed
        self._fingerprints = self._open_fingerprints()
        kinds = self.config.trackers if self.mesh.is_first else []
        trackers = Trackers(kinds, self.run.folder / "curves", self.run.folder.name, records)
        ranks, hang_after = self.mesh.layout.ranks, self.config.hang_after
        columns = ("loss {task.fields[loss]:.3f}", "{task.fields[rate]:,.0f} tokens/s")
        with (
            Interrupts() as interrupts,
            Watchdog.join(self.mesh.rank, ranks, hang_after) as watchdog,
            self.saver,
            self.profiler or nullcontext(),
            self._read_ahead() as self._read,
            progress_bar(*columns, shown=self.mesh.is_first) as bar,
        ):
            task = bar.add_task(
                self.run.folder.name.rpartition("-")[0], total=self.config.steps,
                completed=self.step, loss=float("nan"), rate=0.0,
            )  # fmt: skip
            while self.step < self.config.steps:
                with self._traced():
                    record = self._timed_step()
                    with region(Region.RECORDS):
                        self._record(record, trackers)
                        loss, rate = record["loss"], self.tokens_per_second
                        bar.update(task, completed=self.step, loss=loss, rate=rate)
                        stop = self.mesh.any(interrupts.requested)
                        if stop or self._checkpoint_due():
                            self._save()
                    if stop and self.step < self.config.steps:
                        self._give_up()
                watchdog.beat(self.step)
            checkpoint = self.saver.wait()
        trackers.close()
        if checkpoint is None:
            raise ReforgeError("no checkpoint was written: the last step did not save")
        return checkpoint_path(self.run.checkpoints, self.step), checkpoint

    @property
    def tokens_per_second(self) -> float:
        """Tokens over the time spent in steps since this process started or resumed."""
        tokens = self.config.batch.sequences * self.config.sequence_length * self.steps_taken
        return tokens / self.seconds if self.seconds else 0.0

    def _read_ahead(self) -> ReadAhead:
        return ReadAhead(
            self.objective.read, sequences=self.config.batch.sequences, steps=self.config.steps,
            pinned=self.mesh.device.type == "cuda",
        )  # fmt: skip

    def _traced(self) -> AbstractContextManager[None]:
        if self.profiler is None:
            return nullcontext()
        return self.profiler.step(self.step + 1, self.config.steps)

    def _timed_step(self) -> dict[str, Any]:
        started = time.monotonic()
        record = self._train_step()
        self.seconds += time.monotonic() - started
        self.steps_taken += 1
        return record

    def _record(self, record: dict[str, Any], trackers: Trackers) -> None:
        """Validate when it is due, and log the step on the first rank."""
        if self.step % self.config.validate_every == 0 or self.step == self.config.steps:
            record.update(self._heldout())
        if self.mesh.is_first:
            self.run.log_step(record)
            trackers.log(record)

    def _train_step(self) -> dict[str, Any]:
        """One optimizer step: gradient, loss, norm, clip, update."""
        step, config, scale = self.step + 1, self.config, self.scaler.scale
        sums = self.engine.gradient(self._read, step, scale=scale)
        every = config.fingerprint_every
        measured = self.engine.measure(checksums=every > 0 and step % every == 0)
        loss, _, pairs = sums.read()
        if self._fingerprints is not None and measured.gradients:
            self._fingerprints.append(step, measured.gradients, measured.weights)
        finite = not measured.nonfinite
        record: dict[str, Any] = {"step": step, "loss": loss}
        if pairs is not None:
            record["pair_loss"] = pairs
        if finite and math.isfinite(loss):
            rate = learning_rate(
                step, peak=config.optimizer.learning_rate, steps=config.steps,
                schedule=config.schedule,
            )  # fmt: skip
            coefficient = clip_coefficient(measured.norm, config.optimizer.clip)
            self.engine.update(step=step, rate=rate, coefficient=coefficient)
            record |= {"learning_rate": rate, "gradient_norm": measured.norm}
        else:
            self._skip(step, loss, measured)
            record |= {"skipped": True}
        if config.precision == "fp16":
            record["loss_scale"] = scale
        self.scaler.update(finite)
        self.step = step
        return record

    def _skip(self, step: int, loss: float, measured: Measured) -> None:
        """Leave out the update of an overflow that a smaller loss scale may avoid."""
        if math.isfinite(loss) and self.scaler.scale > 1.0:
            return
        names = measured.nonfinite
        where = "the loss alone is not a number"
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            where = f"the gradient is not finite in {', '.join(names[:5])}{more}"
        raise NumericalError(
            f"the loss of step {step} is {loss}: {where}. No update was made: lower "
            "optimizer.learning_rate or look at the data of that step; the last checkpoint in "
            f"{self.run.checkpoints} is good"
        )

    def _heldout(self) -> dict[str, float]:
        """The held-out loss, when there is something held out."""
        batches = self.objective.heldout(self.config.batch.microbatch, self.config.grid.data)
        if not batches:
            return {}
        loss, _, pairs = self.engine.heldout(batches)
        record = {"heldout_loss": loss}
        if pairs is not None:
            record["heldout_pair_loss"] = pairs
        return record

    def _open_fingerprints(self) -> FingerprintLog | None:
        """The log of checksums, on the first rank, cut to the steps that stand."""
        if not self.mesh.is_first or not self.config.fingerprint_every:
            return None
        log = FingerprintLog(self.run.folder, list(self.engine.catalogue))
        log.cut(self.step)
        return log

    def _parts(self, *, replicated: bool) -> list[Part]:
        return [
            Part(run.kind, run.tensor, run.shard, run.offset, run.data)
            for run in self.engine.state(replicated=replicated)
        ]

    def _resume(self) -> tuple[Path, Checkpoint] | None:
        found = last_checkpoint(self.run.checkpoints, self.mesh.groups.get("checkpoint"))
        if found is None:
            return None
        path, checkpoint = found
        if checkpoint.run != self.run.identity:
            raise IntegrityError(
                f"{path} is of another recipe or other inputs: move it out of {self.run.folder}"
            )
        load_parts(path, self._parts(replicated=True), self.placements, verify=False)
        self.scaler.restore(checkpoint.scalars)
        self.engine.publish()
        self.step = checkpoint.step
        if self.mesh.is_first:
            logger.info("resuming from %s", path)
            for cause in likely_causes(Environment.current(), checkpoint.environment):
                logger.warning("the bits may differ from an uninterrupted run's: %s", cause)
        return found

    def _checkpoint_due(self) -> bool:
        every = self.config.checkpoints.every
        return self.step % every == 0 or self.step == self.config.steps

    def _save(self) -> None:
        """Begin to save; the files are written while training goes on."""
        checkpoints = self.config.checkpoints
        self.saver.save(
            checkpoint_path(self.run.checkpoints, self.step),
            self._parts(replicated=False),
            self.placements,
            step=self.step,
            run=self.run.identity,
            model=self.run.model,
            layout=self.mesh.layout.degrees(),
            scalars=self.scaler.state() if self.config.precision == "fp16" else {},
            keep_last=checkpoints.keep_last,
            keep_every=checkpoints.keep_every,
        )

    def _give_up(self) -> None:
        self.saver.wait()  # what was saved is said to be only when it is
        raise Interrupted(
            f"asked to end, saved step {self.step} of {self.config.steps}: run the same command "
            "again to continue"
        )
