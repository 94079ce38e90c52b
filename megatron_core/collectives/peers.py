"""What to say when another rank is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from megatron_core.errors import PeerLostError
from megatron_core.regions import Region, region


@contextmanager
def peers() -> Iterator[None]:
    """Around an exchange: say in one line that a rank is gone; its own message says why."""
    try:
        with region(Region.EXCHANGE):
            yield
    except RuntimeError as error:
        if "Connection" not in str(error) and "Timed out" not in str(error):
            raise
        raise PeerLostError(f"rank {dist.get_rank()} stops: another rank is gone") from error
