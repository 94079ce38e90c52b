"""A trace of a few steps, for Perfetto or Chrome, and where their time went."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from megatron_core.parallel.mesh import Mesh
from megatron_core.regions import Region, region
from megatron_core.trainer.shares import ROWS, step_shares

logger = logging.getLogger(__name__)

_PASSED, _TRACED = 2, 3  # steps


class Profiler:
    """Traces three steps of a run once two have passed, for the first steps are slower.

    Of a run with fewer steps left it traces the last three, or all. Every rank leaves
    ``rank-N.json.gz``, which https://ui.perfetto.dev opens; the first prints the table. A trace
    changes no bit.
    """

    def __init__(self, folder: Path, mesh: Mesh, *, tokens: int) -> None:
        """
        Args:
            folder: For the traces; those of an earlier profile are deleted.
            tokens: Of one step, on all ranks.
        """
        self.folder, self.mesh, self.tokens = folder, mesh, tokens
        self._steps: range | None = None
        self._trace: profile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._trace is not None:
            self._trace.stop()
            logger.warning("the run ended before its profile, which is not there")

    @contextmanager
    def step(self, number: int, steps: int) -> Iterator[None]:
        """Around step ``number`` of ``steps``."""
        if self._steps is None:
            self._steps = traced_steps(number, steps)
        if number == self._steps.start:
            self._begin()
        last = number == self._steps.stop - 1
        with region(Region.STEP):
            yield
            if last and self.mesh.device.type == "cuda":
                torch.cuda.synchronize()
        if last:
            self._end(self._steps)

    def _begin(self) -> None:
        if self.mesh.is_first:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # its notices are for its own developers
        activities = [ProfilerActivity.CPU]
        if self.mesh.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.synchronize()
        self._trace = profile(activities=activities)
        self._trace.start()

    def _end(self, steps: range) -> None:
        """Write this rank's trace; the first rank prints the table of all."""
        if self._trace is None:
            return
        trace, self._trace = self._trace, None
        trace.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"rank-{self.mesh.rank}.json.gz"
        partial = path.with_name(f"rank-{self.mesh.rank}.partial.json.gz")
        trace.export_chrome_trace(str(partial))
        with gzip.open(partial, "rt") as file:
            shares = step_shares(json.load(file)["traceEvents"])
        partial.rename(path)
        every = torch.zeros(self.mesh.layout.ranks, len(ROWS), dtype=torch.float64)
        every[self.mesh.rank] = torch.tensor(list(shares.values()), dtype=torch.float64)
        every = self.mesh.merge(every) / (1000 * len(steps))
        if self.mesh.is_first:
            console = Console(stderr=True)
            console.print(share_table(every.tolist(), steps, self.tokens))
            console.print(f"traces of every rank: {self.folder}", soft_wrap=True, highlight=False)


def traced_steps(first: int, steps: int) -> range:
    """Which steps are traced of a run that takes ``first`` … ``steps``."""
    begin = min(first + _PASSED, max(first, steps - _TRACED + 1))
    return range(begin, min(begin + _TRACED, steps + 1))


def share_table(shares: list[list[float]], steps: range, tokens: int) -> Table:
    """Milliseconds of a step by rank and row of ``ROWS``: the first rank, and the busiest.

    Ranks wait for each other in exchanges, so that the busiest is in them for the shortest time.
    """
    whole = sum(shares[0])
    waiting = ROWS.index(Region.EXCHANGE)
    busiest = max(range(len(shares)), key=lambda rank: sum(shares[rank]) - shares[rank][waiting])
    span = f"step {steps.start}" if len(steps) == 1 else f"steps {steps.start} to {steps.stop - 1}"
    table = Table(
        title=f"{span}: {whole:,.1f} ms each, {1000 * tokens / whole:,.0f} tokens/s",
        title_justify="left",
    )
    table.add_column("where the time went")
    ranks = sorted({0, busiest})
    for rank in ranks:
        name = f"rank {rank}" + (", busiest" if rank == busiest and len(shares) > 1 else "")
        table.add_column(f"{name}, ms", justify="right")
        table.add_column("%", justify="right")
    for number, row in enumerate(ROWS):
        cells = []
        for rank in ranks:
            own = shares[rank]
            cells += [f"{own[number]:,.1f}", f"{100 * own[number] / sum(own):.1f}"]
        table.add_row(row, *cells)
    return table
