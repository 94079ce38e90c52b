"""What a backend of an operation can do, and what it lacks here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


def _nothing() -> str | None:
    return None


@dataclass(frozen=True)
class Support:
    """What a backend says of itself: every backend's module has one, named ``SUPPORT``.

    Attributes:
        devices: ``cpu``, ``cuda``.
        dtypes: Of the tensors that it is given.
        automatic: Devices on which ``auto`` takes it, because it was measured to pay there.
        deterministic: Whether the same input gives the same bits in every run.
        lacks: What is not installed, and how to install it; None if nothing.
    """

    devices: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)
    automatic: tuple[str, ...] = ()
    deterministic: bool = True
    lacks: Callable[[], str | None] = _nothing

    def obstacle(self, device: str, dtype: torch.dtype) -> str | None:
        """Why it cannot be used for tensors of ``dtype`` on ``device``; None if it can."""
        if device not in self.devices:
            return f"it runs on {' and '.join(self.devices)}, not on {device}"
        if dtype not in self.dtypes:
            known = ", ".join(str(each).removeprefix("torch.") for each in self.dtypes)
            return f"it computes in {known}, not in {str(dtype).removeprefix('torch.')}"
        if not self.deterministic:
            return "its bits differ from run to run"
        return self.lacks()
