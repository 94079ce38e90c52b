"""The tasks of a data stage: each is done once, over kills, here or on a cluster."""

from megatron_core.data.tasks.local import ordered_map
from megatron_core.data.tasks.tasks import Tasks

__all__ = ["Tasks", "ordered_map"]
