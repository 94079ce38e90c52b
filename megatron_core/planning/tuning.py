"""What the trainings of `finetune` take on a layout."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from megatron_core.config import Recipe, training_runs
from megatron_core.parallel.layout import Layout
from megatron_core.planning.flops import tuning_flops
from megatron_core.planning.job import Job, problems
from megatron_core.planning.memory import Memory, memory, stage_weights
from megatron_core.planning.parameters import changed_weights


@dataclass(frozen=True)
class TuningPlan:
    """The plan of one training; see :class:`Job` for what is left out.

    Attributes:
        name: ``continued``, or the task.
        job: What is planned.
        trained: Weights that are trained.
        frozen: Weights that are not.
        step_flops: Per token, forward and backward, without what is computed again.
        problems: Why the layout cannot run it.
        memory: Of the fullest rank; None where there are problems.
    """

    name: str
    job: Job
    trained: int
    frozen: int
    step_flops: int
    problems: list[str]
    memory: Memory | None

    @classmethod
    def of(cls, name: str, job: Job) -> TuningPlan:
        """Plan ``job``."""
        alone = Job(job.model, Layout(), 1, 1, adapter=job.adapter, logits=job.logits)
        weights = stage_weights(alone, range(1))
        twice = changed_weights(job.model, job.adapter) * job.model.layers
        found = problems(job)
        return cls(
            name=name,
            job=job,
            trained=weights.owned.total,
            frozen=weights.frozen.total - twice.total,
            step_flops=tuning_flops(job.model, job.sequence, job.adapter, logits=job.logits),
            problems=found,
            memory=None if found else max(memory(job), key=lambda m: m.total),
        )

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values: bytes, FLOPs."""
        needed = self.memory
        return {
            "trained_parameters": self.trained,
            "frozen_parameters": self.frozen,
            "flops_per_token": {"step": self.step_flops},
            "memory": None if needed is None else asdict(needed) | {"total": needed.total},
            "problems": self.problems,
        }


def plan_tuning(recipe: Recipe, layout: Layout) -> list[TuningPlan]:
    """Of continued pretraining and of each task, in the order in which they run."""
    return [
        TuningPlan.of(path.rpartition(".")[2], Job.of(config, recipe.pretrain.model, layout))
        for path, config in training_runs(recipe).items()
        if path != "pretrain"
    ]
