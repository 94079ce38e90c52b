"""Whole-buffer optimization: flat buffers, AdamW, learning-rate schedules."""

from megatron_core.optimizer.adamw import AdamWState, clip_coefficient
from megatron_core.optimizer.flat import BLOCK, FlatLayout, Run
from megatron_core.optimizer.schedule import learning_rate

__all__ = ["BLOCK", "AdamWState", "FlatLayout", "Run", "clip_coefficient", "learning_rate"]
