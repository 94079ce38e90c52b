"""Whole-buffer optimization: flat buffers, AdamW, learning-rate schedules."""

from megatron_core.optimizer.adamw import AdamWState, clip_coefficient, global_norm
from megatron_core.optimizer.flat import FlatLayout
from megatron_core.optimizer.schedule import learning_rate

__all__ = ["AdamWState", "FlatLayout", "clip_coefficient", "global_norm", "learning_rate"]
