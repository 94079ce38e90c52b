"""Real processes over gloo, forked from a server that has torch loaded already."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import socket
from collections.abc import Callable
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["megatron_core.trainer.assemble"])


def run_ranks(work: Callable[..., None], ranks: int, *arguments: Any) -> list[int]:
    """Call ``work(*arguments)`` in ``ranks`` processes as a launcher would; their exit codes.

    When one fails or is killed the others are stopped, as torchrun stops them.
    """
    processes = start_ranks(work, ranks, *arguments)
    waiting = list(processes)
    while waiting:
        multiprocessing.connection.wait([process.sentinel for process in waiting])
        for process in [p for p in waiting if p.exitcode is not None]:
            waiting.remove(process)
            if process.exitcode != 0:
                for other in waiting:
                    other.kill()
    return [process.exitcode or 0 for process in processes]


def start_ranks(work: Callable[..., None], ranks: int, *arguments: Any) -> list[Any]:
    """The processes of ``run_ranks``, left to themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        _context.Process(target=_join, args=(work, rank, ranks, port, arguments))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def _join(
    work: Callable[..., None], rank: int, ranks: int, port: int, arguments: tuple[Any, ...]
) -> None:
    if ranks > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        )  # fmt: skip
    work(*arguments)
