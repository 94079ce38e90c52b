"""A held-out split, and a training split that stays clear of it."""

from megatron_core.data.decontamination.heldout import is_heldout
from megatron_core.data.decontamination.removal import (
    DecontaminationCounts,
    decontaminate_documents,
)

__all__ = ["DecontaminationCounts", "decontaminate_documents", "is_heldout"]
