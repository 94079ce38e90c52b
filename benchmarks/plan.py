"""Planned beside published and beside measured.

    python -m benchmarks.plan

Prints and keeps two tables: the step times of Megatron-LM's and MT-NLG's published runs beside
the planner's, with one description of the machine and one of the trainer and nothing fitted to
any run; and the memory of small models, measured at the allocator, beside the plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.tables import write_table
from megatron_core.config import PretrainConfig
from megatron_core.config.presets import read_model
from megatron_core.parallel.layout import Layout
from megatron_core.planning.flops import published_step_flops
from megatron_core.planning.hardware import Hardware
from megatron_core.planning.job import Job
from megatron_core.planning.memory import memory
from megatron_core.planning.parameters import parameters
from megatron_core.planning.presets import read_preset
from megatron_core.planning.software import Software
from megatron_core.planning.time import StepTime, step_time
from tests.memory import step_bytes

SEQUENCE = 2048


@dataclass(frozen=True)
class Published:
    """A run on Selene's A100s, full recompute.

    The stages and microbatches of Narayanan et al. (2021), table 1, are those of the scripts
    published with Megatron-LM; MT-NLG (Smith et al., 2022) is 1F1B with microbatches of one.
    """

    model: str
    billions: float
    tensor: int
    pipeline: int
    stages: int
    microbatch: int
    batch: int
    gpus: int
    teraflops: float
    seconds: float | None = None

    @property
    def job(self) -> Job:
        """The run as the planner takes it."""
        layout = Layout(
            data=self.gpus // (self.tensor * self.pipeline),
            tensor=self.tensor,
            pipeline=self.pipeline,
            stages=self.stages,
            schedule="interleaved" if self.stages > 1 else "1f1b",
        )
        a = read_model(self.model)
        return Job(a, layout, SEQUENCE, self.batch, self.microbatch, recompute="full", dropout=0.1)

    @property
    def flops(self) -> float:
        """Of a step on each GPU, as published TFLOP/s count them."""
        return published_step_flops(self.job.model, self.batch, SEQUENCE) / self.gpus

    @property
    def step(self) -> float:
        """Seconds of a step: as published, or from the published TFLOP/s."""
        return self.seconds or self.flops / self.teraflops / 1e12


PUBLISHED = (
    Published("gpt-1.7b", 1.7, 1, 1, 1, 16, 512, 32, 137),
    Published("gpt-3.6b", 3.6, 2, 1, 1, 16, 512, 64, 138),
    Published("gpt-7.5b", 7.5, 4, 1, 1, 16, 512, 128, 142),
    Published("gpt-18b", 18.4, 8, 1, 1, 8, 1024, 256, 135),
    Published("gpt-39b", 39.1, 8, 2, 1, 4, 1536, 512, 138),
    Published("gpt-76b", 76.1, 8, 4, 3, 2, 1792, 1024, 140),
    Published("gpt-146b", 145.6, 8, 8, 2, 2, 2304, 1536, 148),
    Published("gpt-310b", 310.1, 8, 16, 2, 1, 2160, 1920, 155),
    Published("gpt-530b", 529.6, 8, 35, 3, 1, 2520, 2520, 163),
    Published("gpt-1t", 1008.0, 8, 64, 1, 1, 3072, 3072, 163),
    Published("mt-nlg-530b", 530, 8, 35, 1, 1, 1920, 2240, 126, 60.1),
    Published("mt-nlg-530b", 530, 8, 35, 1, 1, 1920, 2800, 121, 50.2),
    Published("mt-nlg-530b", 530, 8, 35, 1, 1, 1920, 3360, 113, 44.4),
)


def planned(run: Published) -> StepTime:
    """The planner's estimate of a published run."""
    hardware = read_preset(Hardware, "hardware", "a100-80gb")
    software = read_preset(Software, "software", "megatron-2021")
    return step_time(run.job, hardware, software)


def times() -> None:
    """Published runs beside the plan."""
    rows = []
    for run in PUBLISHED:
        time, job = planned(run), run.job
        rate = run.flops / time.total / 1e12
        rows.append(
            [
                run.model,
                f"{parameters(job.model) / 1e9:.1f} / {run.billions}",
                f"{job.layout.data}·{run.tensor}·{run.pipeline}"
                + (f"×{run.stages}" if run.stages > 1 else ""),
                f"{run.gpus:,}",
                f"{rate:.0f} / {run.teraflops:.0f}",
                f"{time.total:.2f} / {run.step:.2f}",
                f"{rate / run.teraflops - 1:+.1%}",
            ]
        )
    note = (
        "Planned / published. Hardware a100-80gb, software megatron-2021; nothing is fitted to a "
        "run, so what these leave out (clocks under load, stragglers, the host) makes every plan "
        "faster than the run. MT-NLG is gpt-530b on the same GPUs under another trainer: without "
        "its bubble it is published at 144 TFLOP/s, gpt-530b at 170, and no description of the "
        "machine gives both."
    )
    header = ["model", "parameters, 10⁹", "data·tensor·pipeline", "GPUs", "TFLOP/s per GPU",
              "step, s", "error"]  # fmt: skip
    write_table("plan", "python -m benchmarks.plan", header, rows, note)


BASE = {
    "model": {"vocabulary": 2048, "positions": 256, "layers": 4, "hidden": 256, "heads": 8,
              "kv_heads": 4, "ffn": 768},
    "sequence_length": 256,
    "batch": {"sequences": 8, "microbatch": 4},
}  # fmt: skip
MEASURED: tuple[tuple[str, dict[str, object]], ...] = (
    ("fp32", {}),
    ("bf16", {"precision": "bf16"}),
    ("fp32, selective recompute", {"recompute": "selective"}),
    ("fp32, full recompute", {"recompute": "full"}),
    ("fp32, grid tensor 4", {"grid": {"tensor": 4}}),
    ("fp32, grid context 4", {"grid": {"context": 4}}),
    ("bf16, grid data 2, tensor 2, context 2, full recompute",
     {"precision": "bf16", "recompute": "full", "grid": {"data": 2, "tensor": 2, "context": 2}}),
    ("fp32, four experts, two chosen",
     {"model": {**BASE["model"], "experts": {"count": 4, "chosen": 2, "ffn": 384}}}),  # type: ignore[dict-item]
)  # fmt: skip


def memories() -> None:
    """Measured memory of one rank beside the plan."""
    rows = []
    for name, changes in MEASURED:
        config = PretrainConfig.model_validate({**BASE, **changes})
        state, step = step_bytes(config, Layout())
        (m,) = memory(Job.of(config, config.model, Layout()))
        plan_state = m.weights + m.optimizer
        rows.append(
            [
                name,
                f"{plan_state / 2**20:.1f} / {state / 2**20:.1f}",
                f"{m.step / 2**20:.1f} / {step / 2**20:.1f}",
                f"{m.total / (state + step) - 1:+.1%}",
            ]
        )
    header = ["recipe", "weights and optimizer, MiB", "most of a step beside them, MiB", "error"]
    base = PretrainConfig.model_validate(BASE)
    note = (
        "Planned / measured at the allocator of torch on a CPU, one rank: "
        f"{parameters(base.model):,} weights, microbatches of "
        f"{base.batch.microbatch} × {base.sequence_length} tokens."
    )
    write_table("plan_memory", "python -m benchmarks.plan", header, rows, note)


def main() -> None:
    """Both tables."""
    times()
    memories()


if __name__ == "__main__":
    main()
