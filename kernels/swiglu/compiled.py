"""The definition through ``torch.compile``: one pass over the numbers each way."""

from __future__ import annotations

from kernels.compiled import SUPPORT, Compiled
from kernels.swiglu import reference

__all__ = ["SUPPORT", "swiglu"]

swiglu = Compiled(reference.swiglu, varying=True)
