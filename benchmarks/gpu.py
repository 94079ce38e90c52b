"""How close to the limit of one GPU Reforge trains a model of a billion parameters.

    python -m benchmarks.gpu [--model llama3.2-1b] [--length 4096] [--sequences 8] [--microbatch 2]

In bf16 with fp32 main weights, each in a process of its own, to and fro: our engine with each
choice of kernels, a plain PyTorch loop under autocast, eager and compiled, and Megatron-Core's
GPTModel in the plain loop where it is installed. What the engine on a grid of one takes more than
the plain loop is what the promise of the same bits costs. A second table has each operation of
kernels/ beside its floors by arithmetic and by bytes. It needs a GPU and refuses to run without.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Literal

import torch

from benchmarks.floors import Rates
from benchmarks.kernels import HEADER, roofline
from benchmarks.operations import Setting
from benchmarks.tables import write_table
from benchmarks.turns import in_turns
from benchmarks.variants import CHECKED, OURS, begin, build, check_same
from megatron_core.config import BatchSizes, PretrainConfig
from megatron_core.config.presets import read_model
from megatron_core.errors import ConfigError
from megatron_core.parallel.backends import DTYPES
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.planning.flops import step_flops
from megatron_core.planning.hardware import Hardware
from megatron_core.planning.parameters import parameters
from megatron_core.planning.presets import read_preset

GRID_OF_ONE, BARE = "Reforge", "plain loop"
NAMES = [*OURS, BARE, "plain loop, compiled", "Megatron-Core, plain loop"]
SAME = 2e-2  # by which losses of the first steps may differ in halves
FP8 = 1979 / 989  # dense FP8 over dense bf16 of the H100's and the H200's data sheets


@dataclass(frozen=True)
class Measured:
    """One training in a process of its own.

    Attributes:
        seconds: Of each step.
        losses: Of the first steps.
        peak: Most bytes allocated on the GPU; 0 on a CPU.
    """

    seconds: list[float]
    losses: list[float]
    peak: int


def recipe(options: argparse.Namespace, device: Literal["cpu", "cuda"] = "cuda") -> PretrainConfig:
    """The chosen model, whose rotary angles are not scaled, since plain models have no such."""
    model = read_model(options.model).model_copy(
        update={"rope_scaling": None, "positions": options.length}
    )
    return PretrainConfig(
        model=model, sequence_length=options.length, device=device, precision=options.precision,
        batch=BatchSizes(sequences=options.sequences, microbatch=options.microbatch),
    )  # fmt: skip


def clock(device: str) -> Callable[[], float]:
    """Seconds, when the device has done what it was given."""

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    return now


def measure(name: str, config: PretrainConfig, steps: int) -> Measured | str:
    """Train as ``name`` for ``steps`` steps after the first ones; or why it cannot."""
    with ExitStack() as stack:
        try:
            step = build(name, config, CHECKED + 1 + steps, stack)
            _, losses = begin(step)
            times = in_turns({name: step}, steps, first=CHECKED + 1, clock=clock(config.device))
        except (ImportError, torch.cuda.OutOfMemoryError) as error:
            return str(error)
        peak = torch.cuda.max_memory_allocated() if config.device == "cuda" else 0
        return Measured(times[name], losses, peak)


def to_and_fro(config: PretrainConfig, steps: int) -> dict[str, Measured]:
    """Every training twice, the second time in the opposite order."""
    found: dict[str, Measured] = {}
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as alone:
        for names in (NAMES, NAMES[::-1]):
            for name in names:
                one = alone.submit(measure, name, config, steps).result()
                if isinstance(one, str):
                    print(f"{name} is left out: {one}")
                    continue
                before = found.get(name, Measured([], [], 0))
                found[name] = Measured(
                    before.seconds + one.seconds, one.losses, max(before.peak, one.peak)
                )
    return found


def mfu(seconds: float, config: PretrainConfig, peak: float) -> float:
    """Model FLOPs of a step, the whole square of attention counted, over ``peak`` FLOP/s."""
    tokens = config.batch.sequences * config.sequence_length
    return tokens * step_flops(config.model, config.sequence_length) / seconds / peak


def peak_of(name: str, hardware: Hardware, config: PretrainConfig) -> float:
    """FLOP/s of the data sheet in the precision that ``name`` multiplies in."""
    return hardware.peak.at(config.precision) * (FP8 if "FP8" in name else 1.0)


def speeds(
    found: Mapping[str, Measured], config: PretrainConfig, hardware: Hardware
) -> list[list[str]]:
    """A row for each training."""
    tokens = config.batch.sequences * config.sequence_length
    median = {name: statistics.median(one.seconds) for name, one in found.items()}
    return [
        [
            name,
            f"{tokens / seconds:,.0f}",
            f"{mfu(seconds, config, peak_of(name, hardware, config)):.1%}",
            f"{found[name].peak / 2**30:.1f}",
            f"{seconds / median[BARE]:.3f}" if BARE in median else "",
        ]
        for name, seconds in median.items()
    ]


def run(options: argparse.Namespace) -> None:
    """Both tables.

    Raises:
        SystemExit: there is no GPU, or the recipe is none.
    """
    if not torch.cuda.is_available():
        raise SystemExit(
            f"benchmarks.gpu measures on an NVIDIA GPU: torch {torch.__version__} finds none here. "
            "It needs one, with its driver and a CUDA build of torch; benchmarks.train measures "
            "on a CPU"
        )
    try:
        config, hardware = recipe(options), read_preset(Hardware, "hardware", options.hardware)
    except ConfigError as error:
        raise SystemExit(str(error)) from error
    command = "python -m benchmarks.gpu" + "".join(
        f" --{name} {value}" for name, value in vars(options).items()
    )
    found = to_and_fro(config, options.steps)
    check_same({name: one.losses for name, one in found.items()}, SAME)
    write_table(
        "gpu", command, ["", "tokens/s", "MFU", "peak memory, GiB", f"time over the {BARE}"],
        speeds(found, config, hardware),
        f"{parameters(config.model):,} parameters, {options.sequences} × {options.length} tokens, "
        f"{options.precision}. MFU is of the data sheet's dense peak, "
        f"{hardware.peak.at(config.precision) / 1e12:.0f} TFLOP/s, and twice as much where FP8 "
        "multiplies; FLOPs are the model's, with the whole square of attention. "
        f"{GRID_OF_ONE} over the {BARE} is the cost of the same bits.",
    )  # fmt: skip
    setting = Setting(
        config.model, options.length, options.microbatch, DTYPES[config.precision], config.device
    )
    rates = Rates(hardware.peak.at(config.precision), hardware.memory.bandwidth * 1e9)
    with open_mesh(Layout(), config.device, config.threads):
        rows = roofline(setting, options.steps, rates=rates, repeats=10, clock=clock(config.device))
    write_table(
        "gpu_kernels", command, HEADER, rows,
        "Forward and backward. Floors are of the data sheet: "
        f"{rates.flops / 1e12:.0f} TFLOP/s, {rates.bytes / 1e9:,.0f} GB/s.",
    )  # fmt: skip


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="llama3.2-1b", help="a preset, or a YAML file of one")
    parser.add_argument("--hardware", default="h200", help="whose data sheet is the limit")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp16", "fp32"])
    parser.add_argument("--steps", type=int, default=10, help="in each of two turns")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--microbatch", type=int, default=2)
    return parser.parse_args(given)


if __name__ == "__main__":
    run(arguments())
