"""What the rules for numbers cost: a step of the engine against a bare PyTorch loop.

    python -m benchmarks.overhead [--steps 9] [--hidden 512] [--length 256] [--sequences 16]

One process, one model, one batch, in turns within one run: a plain decoder with autograd and
torch's AdamW, our engine on a grid of one, and our engine on larger grids. Ratios of medians of
CPU time, which other work on the machine disturbs less than wall time.
"""

from __future__ import annotations

import argparse
import statistics
import time

from benchmarks.plain import PlainModel, plain_step
from benchmarks.steps import engine_step, random_tokens
from benchmarks.tables import write_table
from benchmarks.turns import Step, in_turns, paired
from megatron_core.config import BatchSizes, Grid, ModelConfig, PretrainConfig
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh

GRIDS = [Grid(), Grid(data=4), Grid(tensor=2), Grid(tensor=4), Grid(context=2), Grid(tensor=8)]


def recipe(grid: Grid, hidden: int, length: int, sequences: int) -> PretrainConfig:
    model = ModelConfig(
        vocabulary=4096, positions=length, layers=4, hidden=hidden, heads=hidden // 32,
        kv_heads=hidden // 32, ffn=3 * hidden,
    )  # fmt: skip
    return PretrainConfig(
        sequence_length=length, batch=BatchSizes(sequences=sequences, microbatch=2), grid=grid,
        model=model,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--sequences", type=int, default=16)
    options = parser.parse_args()
    sizes = options.hidden, options.length, options.sequences
    with open_mesh(Layout(), "cpu", 1) as mesh:
        bare = recipe(Grid(), *sizes)
        model = PlainModel(bare.model)
        steps: dict[str, Step] = {"bare loop": plain_step(model, bare, random_tokens(bare))}
        for grid in GRIDS:
            name = ", ".join(f"{k} {v}" for k, v in grid.model_dump().items() if v > 1)
            steps[f"grid {name or 'of one'}"] = engine_step(recipe(grid, *sizes), mesh)
        times = in_turns(steps, options.steps, clock=time.process_time)
    loop, one = times["bare loop"], times["grid of one"]
    write_table(
        "overhead",
        f"python -m benchmarks.overhead --steps {options.steps} --hidden {options.hidden} "
        f"--length {options.length} --sequences {options.sequences}",
        ["step", "median", "over the bare loop", "over a grid of one"],
        [
            [
                name,
                f"{statistics.median(values) * 1e3:.0f} ms",
                f"{paired(values, loop):.3f}",
                f"{paired(values, one):.3f}",
            ]
            for name, values in times.items()
        ],
    )


if __name__ == "__main__":
    main()
