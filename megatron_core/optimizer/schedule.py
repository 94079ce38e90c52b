"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from megatron_core.config import RateSchedule


def learning_rate(step: int, *, peak: float, steps: int, schedule: RateSchedule) -> float:
    """Learning rate of optimizer step ``step``, counted from 1, of ``steps`` in all.

    ``cosine``: to ``final × peak`` along half a cosine (Loshchilov and Hutter, 2017).
    ``wsd``: constant, then linear to ``final × peak`` over the last ``decay × steps`` steps
    (Hu et al., 2024).
    """
    warmup = schedule.warmup_steps
    if step <= warmup:
        return peak * (step / warmup)
    if schedule.kind == "cosine":
        progress = (step - warmup) / max(1, steps - warmup)
        fall = 0.5 * (1.0 - math.cos(math.pi * progress))
    else:
        length = min(max(1, round(schedule.decay * steps)), steps - warmup)
        fall = max(0.0, (step - (steps - length)) / length)
    return peak * (1.0 - (1.0 - schedule.final) * fall)
