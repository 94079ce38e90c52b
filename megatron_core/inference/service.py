"""Ranks that compute together what the first of them asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.distributed as dist

from megatron_core.collectives import peers
from megatron_core.inference.ranks import spread
from megatron_core.parallel.mesh import Mesh

Work = Callable[..., list[Any]]


class Service:
    """Kinds of work on lists of items, each spread over the data ranks.

    The first rank asks; the others serve until it releases them. So only the first needs to know
    what is to be done, and why.
    """

    def __init__(self, mesh: Mesh, works: Mapping[str, Work]) -> None:
        """``works``, the same on all ranks, take some of the items and what else was asked with."""
        self.mesh, self._works = mesh, works

    def ask(self, work: str, items: Sequence[Any], **settings: Any) -> list[Any]:
        """The results of ``work`` on ``items``, on the first rank."""
        self._tell((work, items, settings))
        return self._do(work, items, settings)

    def serve(self) -> None:
        """Compute what the first rank asks for, until it is done."""
        while (asked := self._tell(None)) is not None:
            self._do(*asked)

    def release(self) -> None:
        """Let the other ranks go."""
        self._tell(None)

    def _do(self, work: str, items: Sequence[Any], settings: Mapping[str, Any]) -> list[Any]:
        return spread(self.mesh, items, lambda part: self._works[work](part, **settings))

    def _tell(self, message: Any) -> Any:
        """The first rank's message, on every rank."""
        if self.mesh.layout.ranks == 1:
            return message
        told = [message]
        with peers():
            dist.broadcast_object_list(told, src=0, group=self.mesh.groups["checkpoint"])
        return told[0]
