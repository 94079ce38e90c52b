"""The most memory that a process holds in a step."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

from benchmarks.turns import Step


def peak_bytes(make: Callable[[], Step]) -> int:
    """Bytes resident at most in the second step that ``make`` gives, beyond those before it.

    Weights, gradients and moments are counted, and what a compiler leaves behind. Linux alone
    says; what was freed goes back to it first.
    """
    before = _resident("VmRSS")
    step = make()
    step(1)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    step(2)
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
