"""Ranks that succeed or fail together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch.distributed as dist

from megatron_core.collectives.peers import peers
from megatron_core.errors import IntegrityError, ReforgeError

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class Ranks:
    """The ranks of a gloo ``group``; None is this process alone."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.count = 1 if group is None else dist.get_world_size(group)

    @property
    def is_first(self) -> bool:
        """Whether this rank does what only one should."""
        return self.rank == 0

    def together(self, work: Callable[[], T], reduce: Callable[[list[T]], R]) -> R:
        """``reduce`` on the first rank of what ``work`` gives on each, in the order of ranks.

        No rank waits for one that failed: it raises what that one did.

        Raises:
            ReforgeError: ``work`` failed on some rank, or ``reduce`` did; on every rank. An
                IntegrityError where every failure was one.
        """
        mine = _attempt(work)
        everyone: list[Any] | None = [mine]
        result: list[Any] = [None]
        with peers():
            if self.group is not None:
                everyone = [None] * self.count if self.is_first else None
                dist.gather_object(mine, everyone, group=self.group, group_dst=0)
            if everyone is not None:
                result = [_failure(everyone) or _attempt(partial(reduce, everyone))]
            if self.group is not None:
                dist.broadcast_object_list(result, group=self.group, group_src=0)
        if isinstance(result[0], ReforgeError):
            raise result[0]
        return result[0]  # type: ignore[no-any-return]


def blame(failures: Mapping[int, object], ranks: int) -> str:
    """What went wrong on which of ``ranks`` ranks, each reason once."""
    reasons: dict[str, list[str]] = {}
    for rank, reason in failures.items():
        reasons.setdefault(str(reason), []).append(str(rank))
    return "; ".join(
        reason if len(numbers) == ranks else f"rank {', '.join(numbers)}: {reason}"
        for reason, numbers in sorted(reasons.items())
    )


def _failure(everyone: Sequence[object]) -> ReforgeError | None:
    """The failures among the outcomes of all ranks as one, or None."""
    failures = {rank: e for rank, e in enumerate(everyone) if isinstance(e, ReforgeError)}
    damaged = all(isinstance(error, IntegrityError) for error in failures.values())
    message = blame(failures, len(everyone))
    return (IntegrityError if damaged else ReforgeError)(message) if failures else None


def _attempt(work: Callable[[], R]) -> R | ReforgeError:
    """What ``work`` gives, or what went wrong, as an error that other ranks can read."""
    try:
        return work()
    except ReforgeError as error:
        return error
    except Exception as error:
        logger.debug("a rank failed", exc_info=True)
        return ReforgeError(f"{type(error).__name__}: {error}")
