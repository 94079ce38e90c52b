"""The fixed-tree gradient sum against the library's reduce-scatter and all-reduce, on gloo.

    python -m benchmarks.collectives [--ranks 4] [--rounds 7]

Each rank holds one buffer of fp32. `tree` leaves each rank its cut of the sum, added in the order
that the recipe defines, and `tree + copies` also brings all cuts to every rank, as the parameters
are after an update; the library's calls add in an order of their own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from benchmarks.tables import write_table
from megatron_core.collectives import CutSum, share_cuts
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from tests.ranks import run_ranks

SIZES = (10, 100)  # MB


def measure(ranks: int, rounds: int) -> None:
    with open_mesh(Layout(data=ranks), "cpu", 1) as mesh:
        group = mesh.groups["data"]
        rows = []
        for megabytes in SIZES:
            count = megabytes * 10**6 // 4 // ranks * ranks
            bounds = [count * i // ranks for i in range(ranks + 1)]
            buffer = torch.randn(count)
            cut = buffer.new_empty(count // ranks)
            ways: dict[str, Callable[[], object]] = {
                "tree": lambda: CutSum(buffer, bounds, group).wait(),  # noqa: B023
                "reduce-scatter": lambda: dist.reduce_scatter_tensor(cut, buffer),  # noqa: B023
                "tree + copies": lambda: (
                    CutSum(buffer, bounds, group).wait(),  # noqa: B023
                    share_cuts(buffer, bounds, range(ranks), group),  # noqa: B023
                ),
                "all-reduce": lambda: dist.all_reduce(buffer),  # noqa: B023
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(rounds + 1):
                for name, way in ways.items():
                    buffer.normal_()
                    dist.barrier()
                    start = time.perf_counter()
                    way()
                    dist.barrier()
                    if turn:
                        times[name].append(time.perf_counter() - start)
            median = {name: statistics.median(values) for name, values in times.items()}
            rows.append(
                [
                    f"{megabytes} MB",
                    *(f"{seconds * 1e3:.0f} ms" for seconds in median.values()),
                    f"{median['tree'] / median['reduce-scatter']:.2f}",
                    f"{median['tree + copies'] / median['all-reduce']:.2f}",
                ]
            )
        if mesh.is_first:
            write_table(
                "collectives",
                f"python -m benchmarks.collectives --ranks {ranks} --rounds {rounds}",
                ["buffer", *ways, "tree / reduce-scatter", "tree + copies / all-reduce"],
                rows,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    raise SystemExit(max(run_ranks(measure, options.ranks, options.ranks, options.rounds)))
