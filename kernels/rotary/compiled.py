"""The definition through ``torch.compile``: one pass over the numbers each way."""

from __future__ import annotations

from kernels.compiled import SUPPORT, Compiled
from kernels.rotary import reference

__all__ = ["SUPPORT", "apply_rotary"]

apply_rotary = Compiled(reference.apply_rotary)
