"""Where the time of a step goes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.profiler import ProfilerActivity, profile

from benchmarks.turns import Step
from megatron_core.regions import Region, region
from megatron_core.trainer.shares import step_shares


def breakdown(step: Step, numbers: range) -> dict[str, float]:
    """Shares of the time of the steps ``numbers`` by kind of work, those of `--profile`."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # its notices are for its own developers
    with profile(activities=[ProfilerActivity.CPU]) as traced:
        for number in numbers:
            with region(Region.STEP):
                step(number)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        traced.export_chrome_trace(str(path))
        found = step_shares(json.loads(path.read_text())["traceEvents"])
    whole = sum(found.values())
    return {row: time / whole for row, time in found.items()}
