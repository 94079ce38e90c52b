"""How far each operation of kernels/ is from the least time that the machine allows.

    python -m benchmarks.kernels [--steps 9] [--threads CORES] [--sequences 4] [--length 512]

Each backend of each operation, forward and backward, at the shapes of the model of
`benchmarks.train` in fp32, in turns with a product of two large matrices and with a copy of as many
bytes as the operation has to move: what fits into a cache is measured against the cache.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.floors import SQUARE_FLOPS, Rates, moving, square_product
from benchmarks.operations import CASES, Setting, backends, operations
from benchmarks.tables import write_table
from benchmarks.train import arguments, recipe
from benchmarks.turns import Step, in_turns

HEADER = ["operation", "shape", "backend", "time, ms", "floor by arithmetic, ms",
          "floor by bytes, ms", "over the floor"]  # fmt: skip


def roofline(
    setting: Setting, count: int, *, rates: Rates | None = None, repeats: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[str]]:  # fmt: skip
    """A row for each backend of each operation.

    Args:
        setting: The shapes.
        count: Times taken of each, of which the median counts.
        rates: What floors are made of; measured in turns with the operation if None.
        repeats: Calls in each time.
        clock: What waits for the device.
    """
    rows = []
    for operation in operations():
        if operation not in CASES:
            print(f"{operation} is left out: benchmarks/operations.py has no case of it")
            continue
        case = CASES[operation](setting)
        steps = {name: case.step(module) for name, module in backends(operation, setting).items()}
        turns = {name: _repeated(step, repeats) for name, step in steps.items()}
        if rates is None:
            turns |= {"a product": square_product(), "a copy": moving(case.cost.bytes)}
        times = in_turns(turns, count, clock=clock)
        median = {name: statistics.median(found) for name, found in times.items()}
        reached = rates or Rates(
            SQUARE_FLOPS / median["a product"], case.cost.bytes / median["a copy"]
        )
        floors = case.cost.floors(reached)
        for name in steps:
            seconds = median[name] / repeats
            cells = [f"{1e3 * x:.3f}" for x in (seconds, *floors)]
            rows.append([operation, case.shape, name, *cells, f"{seconds / max(floors):.2f}"])
    return rows


def _repeated(step: Step, repeats: int) -> Step:
    def run(number: int) -> None:
        for _ in range(repeats):
            step(number)

    return run


def main(options: argparse.Namespace) -> None:
    config = recipe(options.length, options.sequences, options.threads)
    torch.set_num_threads(options.threads)
    write_table(
        "kernels",
        f"python -m benchmarks.kernels --steps {options.steps} --threads {options.threads} "
        f"--sequences {options.sequences} --length {options.length}",
        HEADER,
        roofline(Setting(config.model, options.length, options.sequences), options.steps),
        f"Forward and backward, fp32, {options.threads} threads. The floor is the larger of the "
        "two: products at the rate of a large one, and a copy of as many bytes.",
    )


if __name__ == "__main__":
    main(arguments(description=__doc__))
