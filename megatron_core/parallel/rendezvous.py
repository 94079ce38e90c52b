"""Where the ranks meet: the store of the launcher, and names in it that no earlier try has used."""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta
from typing import Protocol

import torch.distributed as dist

from megatron_core.errors import ReforgeError

_PATIENCE = 600.0


class Store(Protocol):
    """The part of ``torch.distributed.Store`` that is used here."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...

    def multi_get(self, keys: list[str]) -> list[bytes]: ...

    def add(self, key: str, amount: int) -> int: ...


def join_ranks(backend: str) -> None:
    """Open the process group of all ranks that a launcher has started.

    torchrun keeps one store for all its restarts, and a restarted rank would find the addresses of
    ranks that are gone. So the ranks agree on a prefix first.

    Raises:
        ReforgeError: not all ranks came; it says which.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        dist.init_process_group(backend)  # the first rank opens a store that is new
        return
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = private_store("process group", rank, ranks)
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks)  # type: ignore[arg-type]


def private_store(name: str, rank: int, ranks: int) -> Store:
    """A connection of its own to the launcher's store, under a prefix that all ranks share.

    All ranks call it, in the same order.
    """
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
        timeout=timedelta(seconds=_PATIENCE),
    )  # fmt: skip
    prefix = agree(store, name, rank, ranks)
    return dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]


def agree(store: Store, name: str, rank: int, ranks: int, patience: float = _PATIENCE) -> str:
    """A new random word that is the same on all ranks, though ``store`` may hold old answers.

    Each rank says hello with a number of its own. The first answers each with that number and the
    word, again whenever a hello changes, until all have taken it; so an answer that holds a rank's
    own number is never an old one.

    Raises:
        ReforgeError: not all ranks came within ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    if rank == 0:
        return _welcome(store, name, range(1, ranks), deadline)
    number = uuid.uuid4().hex
    store.set(f"{name}/hello/{rank}", number)
    while time.monotonic() < deadline:
        if store.check([f"{name}/welcome/{rank}"]):
            answered, _, word = store.get(f"{name}/welcome/{rank}").decode().partition(" ")
            if answered == number:
                store.set(f"{word}/taken/{rank}", "")
                return word
        time.sleep(0.01)
    raise ReforgeError(f"rank {rank} waited {patience:.0f} s for rank 0, which did not answer")


def _welcome(store: Store, name: str, others: range, deadline: float) -> str:
    word = uuid.uuid4().hex
    answered: dict[int, bytes] = {}
    waiting = set(others)
    while waiting and time.monotonic() < deadline:
        for rank in sorted(waiting):
            if store.check([f"{word}/taken/{rank}"]):
                waiting.remove(rank)
            elif store.check([f"{name}/hello/{rank}"]):
                hello = store.get(f"{name}/hello/{rank}")
                if answered.get(rank) != hello:
                    answered[rank] = hello
                    store.set(f"{name}/welcome/{rank}", f"{hello.decode()} {word}")
        time.sleep(0.005)
    if waiting:
        late = ", ".join(map(str, sorted(waiting)[:8]))
        raise ReforgeError(f"{len(waiting)} of the ranks did not come to the rendezvous: {late}")
    return word
