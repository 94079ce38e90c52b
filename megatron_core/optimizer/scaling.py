"""The loss scale that keeps fp16 gradients out of underflow (Micikevicius et al., 2018)."""

from __future__ import annotations

from collections.abc import Mapping

from megatron_core.config import LossScale


class LossScaler:
    """A dynamic loss scale: halved on overflow, doubled after a quiet while, never below 1.

    The loss is multiplied by ``scale`` before the backward pass and the summed gradient divided
    by it after; the scale is a power of two, so both are exact. Without a config the scale is 1
    for good, as fp32 and bf16 need.

    A gradient that is not finite means *skip this step and go on* while ``scale`` is above 1, for
    the scale may have caused it, and *stop* at 1.

    Attributes:
        scale: of the next step.
        quiet: steps since the last overflow or change of the scale.
    """

    def __init__(self, config: LossScale | None = None) -> None:
        self.config = config
        self.scale = 1.0 if config is None else float(config.initial)
        self.quiet = 0

    def update(self, finite: bool) -> None:
        """Take note of a step: whether its gradient, on every rank, was finite."""
        if self.config is None:
            return
        if not finite:
            self.scale, self.quiet = max(1.0, self.scale / 2), 0
            return
        self.quiet += 1
        if self.quiet >= self.config.growth_every:
            self.scale, self.quiet = self.scale * 2, 0

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"loss_scale": self.scale, "quiet_steps": float(self.quiet)}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from ``state()``; a scaler without a config has nothing to restore.

        Raises:
            KeyError: ``state`` is not that of a loss scaler.
        """
        if self.config is not None:
            self.scale, self.quiet = state["loss_scale"], int(state["quiet_steps"])
