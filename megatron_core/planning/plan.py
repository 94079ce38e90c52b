"""What a layout takes, all together."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from megatron_core.errors import ConfigError
from megatron_core.planning.flops import Recompute, forward_flops, step_flops
from megatron_core.planning.hardware import Hardware
from megatron_core.planning.job import Job, problems
from megatron_core.planning.memory import Memory, memory
from megatron_core.planning.parameters import active_parameters, parameters
from megatron_core.planning.software import Software
from megatron_core.planning.time import StepTime, step_time
from megatron_core.planning.traffic import Transfer, step_transfers


@dataclass(frozen=True)
class Plan:
    """The plan of one job.

    Attributes:
        parameters: Trained weights, tied ones once.
        active: Weights that one token meets.
        forward_flops: Per token.
        step_flops: Per token, forward and backward, without what is computed again.
        memory: Of the fullest rank, by recompute choice.
        usable: Bytes that a rank has for tensors.
        transfers: Of the pipeline rank that sends most in a step.
        time: Of a step.
        peak: FLOP/s of a rank.
    """

    job: Job
    parameters: int
    active: int
    forward_flops: int
    step_flops: int
    memory: dict[Recompute, Memory]
    usable: float
    transfers: list[Transfer]
    time: StepTime
    peak: float

    @property
    def needed(self) -> Memory:
        """Memory with the job's own recompute choice."""
        return self.memory[self.job.recompute]

    @property
    def fits(self) -> bool:
        """Whether the memory of a rank is enough."""
        return self.needed.total <= self.usable

    @property
    def bubble(self) -> float:
        """Share of the pipeline's time that its ranks wait for each other."""
        return self.time.bubble / (self.time.work.total + self.time.bubble)

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.job.batch * self.job.sequence

    @property
    def rate(self) -> float:
        """FLOP/s of the model, without what is computed again, on each rank."""
        return self.tokens * self.step_flops / self.time.total / self.job.layout.ranks

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values: bytes, seconds, FLOPs."""
        job = asdict(self.job) | {"model": self.job.model.model_dump()}
        job["grid"] = {name: getattr(self.job, name) for name in ("data", "tensor", "context")}
        return {
            "job": job,
            "ranks": self.job.layout.ranks,
            "parameters": self.parameters,
            "active_parameters": self.active,
            "flops_per_token": {"forward": self.forward_flops, "step": self.step_flops},
            "memory": {choice: asdict(m) | {"total": m.total} for choice, m in self.memory.items()},
            "usable_memory": self.usable,
            "fits": self.fits,
            "bubble": self.bubble,
            "transfers": [asdict(t) | {"total": t.total} for t in self.transfers],
            "seconds": asdict(self.time) | {"total": self.time.total},
            "tokens_per_second": self.tokens / self.time.total,
            "flops_per_second_per_rank": self.rate,
            "model_flops_utilization": self.rate / self.peak,
        }


def make_plan(job: Job, hardware: Hardware, software: Software) -> Plan:
    """Plan ``job``.

    Raises:
        ConfigError: the layout cannot run it; all reasons are named. Too little memory is no
            such reason: the plan says so.
    """
    if found := problems(job):
        count = "a problem" if len(found) == 1 else f"{len(found)} problems"
        raise ConfigError("\n  ".join([f"the layout {job.layout} has {count}:", *found]))
    a = job.model
    needed = {
        choice: max(memory(replace(job, recompute=choice)), key=lambda m: m.total)
        for choice in get_args(Recompute)
    }
    sent = [step_transfers(job, software, rank) for rank in range(job.layout.pipeline)]
    return Plan(
        job=job,
        parameters=parameters(a),
        active=active_parameters(a),
        forward_flops=forward_flops(a, job.sequence),
        step_flops=step_flops(a, job.sequence),
        memory=needed,
        usable=hardware.usable,
        transfers=max(sent, key=lambda transfers: sum(t.total for t in transfers)),
        time=step_time(job, hardware, software),
        peak=hardware.peak.at(job.precision),
    )
