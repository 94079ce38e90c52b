"""Named parts of a step, for whoever traces it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum

import torch
from torch.autograd.profiler import record_function


class Region(StrEnum):
    """What a trace shows beside single operations."""

    STEP = "step"
    INPUT = "input"
    HEAD = "head and cross-entropy"
    OPTIMIZER = "optimizer"
    EXCHANGE = "exchange between ranks"
    RECORDS = "validation, checkpoints, logs"


def region(name: Region) -> AbstractContextManager[object]:
    """Marks what runs inside as ``name`` in a trace, and does nothing while none is taken."""
    tracing = torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
    return record_function(name) if tracing else nullcontext()
