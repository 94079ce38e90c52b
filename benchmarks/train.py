"""How fast Reforge trains a small model on a CPU, beside what else trains it.

    python -m benchmarks.train [--steps 9] [--threads CORES] [--sequences 4] [--length 512]

One process, one decoder of the Llama type, the same weights, tokens and AdamW in fp32: our engine
as a recipe has it, a plain PyTorch loop, eager and compiled, transformers' Trainer with its own
loop, and LitGPT's model in the plain loop where it is installed. The losses of the first steps
must be the same, which shows that all do the same work; then they take turns, with the product of
two large matrices among them, which gives the machine's rate. A second table tells where the time
of our step goes. nanochat is not here: its model is another one.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context

from benchmarks.breakdown import breakdown
from benchmarks.floors import SQUARE_FLOPS, square_product
from benchmarks.memory import peak_bytes
from benchmarks.tables import write_table
from benchmarks.turns import Times, in_turns, paired
from benchmarks.variants import CHECKED, OURS, begin, build, build_all, check_same
from megatron_core.config import BatchSizes, ModelConfig, PretrainConfig
from megatron_core.planning.flops import step_flops
from megatron_core.planning.parameters import parameters

NAMES = [*OURS, "plain loop", "plain loop, compiled", "transformers' Trainer", "LitGPT, plain loop"]
SAME = 1e-4  # by which losses of the first steps may differ
PRODUCTS = "products"


def recipe(length: int, sequences: int, threads: int) -> PretrainConfig:
    """9 M parameters."""
    model = ModelConfig(
        vocabulary=8192, positions=length, layers=8, hidden=256, heads=8, kv_heads=8, ffn=768
    )
    return PretrainConfig(
        sequence_length=length, batch=BatchSizes(sequences=sequences, microbatch=sequences),
        model=model, threads=threads,
    )  # fmt: skip


def speeds(
    times: Times, first: Mapping[str, float], memory: Mapping[str, int], config: PretrainConfig
) -> list[list[str]]:
    """A row for each, the fastest of the others as the measure."""
    tokens = config.batch.sequences * config.sequence_length
    flops = tokens * step_flops(config.model, config.sequence_length)
    products = times[PRODUCTS]
    median = {name: statistics.median(times[name]) for name in first}
    fastest = min((name for name in first if name not in OURS), key=median.__getitem__)
    return [
        [
            name,
            f"{tokens / median[name]:,.0f}",
            f"{paired(times[fastest], times[name]):.3f}",
            f"{paired(products, times[name]) * flops / SQUARE_FLOPS:.1%}",
            f"{memory[name] / 2**20:,.0f}",
            f"{first[name]:.1f}",
        ]
        for name in first
    ]


def memory_of(name: str, config: PretrainConfig) -> int:
    """Most bytes that ``name`` holds in its second step, for a process of its own."""
    with ExitStack() as stack:
        return peak_bytes(lambda: build(name, config, 2, stack))


def run(options: argparse.Namespace) -> None:
    config = recipe(options.length, options.sequences, options.threads)
    command = (
        f"python -m benchmarks.train --steps {options.steps} --threads {options.threads} "
        f"--sequences {options.sequences} --length {options.length}"
    )
    most = CHECKED + 1 + options.steps  # one to warm up
    with ExitStack() as stack:
        steps = build_all(NAMES, config, most, stack)
        began = {name: begin(step) for name, step in steps.items()}
        check_same({name: losses for name, (_, losses) in began.items()}, SAME)
        turns = {**steps, PRODUCTS: square_product()}
        times = in_turns(turns, options.steps, first=CHECKED + 1)
        kinds = {name: breakdown(steps[name], range(most + 1, most + 4)) for name in OURS}
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as alone:
        memory = {name: alone.submit(memory_of, name, config).result() for name in steps}
    rate = SQUARE_FLOPS / statistics.median(times[PRODUCTS])
    suffix = "" if options.threads == os.cpu_count() else f"_threads_{options.threads}"
    write_table(
        f"train{suffix}", command,
        ["", "tokens/s", "over the fastest of the others", "of the GEMM rate",
         "memory, MiB", "first step, s"],
        speeds(times, {name: seconds for name, (seconds, _) in began.items()}, memory, config),
        f"{parameters(config.model):,} parameters, {options.sequences} × {options.length} tokens, "
        f"fp32, {options.threads} threads. GEMM rate: {rate / 1e9:.0f} GFLOP/s of a large product, "
        "in turns with the steps. FLOPs are the model's, with the whole square of attention. "
        "Memory is the most that a process of its own holds in a step beyond what it held before.",
    )  # fmt: skip
    write_table(
        f"train_where{suffix}", command, ["", *kinds],
        [[row, *(f"{found[row]:.1%}" for found in kinds.values())]
         for row in next(iter(kinds.values()))],
        "Where the time of our step goes, by the profiler, which itself costs some.",
    )  # fmt: skip


def arguments(given: list[str] | None = None, *, description: str | None) -> argparse.Namespace:
    """Of a measurement at the size of this model."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    return parser.parse_args(given)


if __name__ == "__main__":
    run(arguments(description=__doc__))
