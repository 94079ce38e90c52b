"""What to say when another rank is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from megatron_core.errors import PeerLostError


@contextmanager
def peers() -> Iterator[None]:
    """Say in one line that another rank is gone; that rank's own message says why."""
    try:
        yield
    except RuntimeError as error:
        if "Connection" not in str(error) and "Timed out" not in str(error):
            raise
        raise PeerLostError(f"rank {dist.get_rank()} stops: another rank is gone") from error
