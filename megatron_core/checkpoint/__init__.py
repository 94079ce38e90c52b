"""Checkpoints that exist whole or not at all, and are their tensors rather than their files."""

from megatron_core.checkpoint.differences import Difference, first_difference
from megatron_core.checkpoint.folder import (
    checkpoint_path,
    find_checkpoints,
    last_checkpoint,
    prune_checkpoints,
)
from megatron_core.checkpoint.store import (
    Checkpoint,
    load_tensors,
    load_weights,
    read_checkpoint,
    save_checkpoint,
    tensor_leaves,
    verify_checkpoint,
)

__all__ = [
    "Checkpoint",
    "Difference",
    "checkpoint_path",
    "find_checkpoints",
    "first_difference",
    "last_checkpoint",
    "load_tensors",
    "load_weights",
    "prune_checkpoints",
    "read_checkpoint",
    "save_checkpoint",
    "tensor_leaves",
    "verify_checkpoint",
]
