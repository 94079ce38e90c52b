"""Checkpoints that exist whole or not at all, and are their tensors rather than their files."""

from megatron_core.checkpoint.description import Checkpoint, read_checkpoint
from megatron_core.checkpoint.differences import Difference, first_difference
from megatron_core.checkpoint.folder import (
    checkpoint_path,
    find_checkpoints,
    last_checkpoint,
    prune_checkpoints,
)
from megatron_core.checkpoint.loading import (
    StoredWeights,
    load_parts,
    verify_checkpoint,
)
from megatron_core.checkpoint.parts import Part, Placement
from megatron_core.checkpoint.saver import CheckpointSaver
from megatron_core.checkpoint.whole import save_checkpoint, save_weights, weights_root

__all__ = [
    "Checkpoint",
    "CheckpointSaver",
    "Difference",
    "Part",
    "Placement",
    "StoredWeights",
    "checkpoint_path",
    "find_checkpoints",
    "first_difference",
    "last_checkpoint",
    "load_parts",
    "prune_checkpoints",
    "read_checkpoint",
    "save_checkpoint",
    "save_weights",
    "verify_checkpoint",
    "weights_root",
]
