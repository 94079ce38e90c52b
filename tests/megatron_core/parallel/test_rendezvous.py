"""Ranks agree on a word that no earlier try has left, in whatever order they come."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from megatron_core.errors import ReforgeError
from megatron_core.parallel.rendezvous import Store, agree, join_ranks, private_store
from tests.ranks import run_ranks


@pytest.fixture
def store() -> Store:
    """As a launcher keeps it over all its restarts."""
    return dist.HashStore()  # type: ignore[attr-defined]


def meet(store: Store, ranks: int, order: list[int], pause: float = 0.0) -> list[str]:
    """The words of all ranks, which come in ``order``."""
    words = [""] * ranks

    def work(rank: int) -> None:
        words[rank] = agree(store, "test", rank, ranks, patience=20)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in order]
    for thread in threads:
        thread.start()
        time.sleep(pause)
    for thread in threads:
        thread.join()
    return words


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_words_are_shared_and_never_old(order: list[int], store: Store) -> None:
    tries = [meet(store, 4, order, pause=0.02) for _ in range(3)]
    assert all(len(set(words)) == 1 and words[0] for words in tries)
    assert len({words[0] for words in tries}) == 3


def test_a_rank_that_came_and_died_leaves_nothing_that_is_taken_for_another(store: Store) -> None:
    """A try in which the first rank never came, and one in which another never came."""
    with pytest.raises(ReforgeError, match="rank 1 waited 0 s for rank 0"):
        agree(store, "test", 1, 3, patience=0.1)
    with pytest.raises(ReforgeError, match="2 of the ranks did not come to the rendezvous: 1, 2"):
        agree(store, "test", 0, 3, patience=0.1)
    assert len(set(meet(store, 3, [1, 0, 2], pause=0.02))) == 1


def test_other_names_are_other_meetings(store: Store) -> None:
    assert agree(store, "one", 0, 1) != agree(store, "two", 0, 1)


def sum_up(port: int, folder: Path, attempt: int) -> None:
    """One try of two ranks under a launcher whose store is at ``port``."""
    os.environ.update(
        TORCHELASTIC_USE_AGENT_STORE="True", MASTER_ADDR="localhost", MASTER_PORT=str(port)
    )
    if os.environ["RANK"] == "0":
        time.sleep(1)  # so that the other one finds what earlier tries have left
    join_ranks("gloo")
    total = torch.tensor([dist.get_rank() + 1.0])
    dist.all_reduce(total)
    beside = private_store("beside", dist.get_rank(), 2)
    beside.add("came", 1)
    while beside.add("came", 0) < 2:
        time.sleep(0.01)
    came = beside.add("came", 0)
    dist.barrier()
    (folder / f"{attempt}-{dist.get_rank()}").write_text(f"{total.item()} {came}")
    os._exit(0)  # as if killed: nothing is taken back from the store


def test_ranks_that_are_started_again_find_each_other(tmp_path: Path) -> None:
    server: Any = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    for attempt in range(2):
        assert run_ranks(sum_up, 2, server.port, tmp_path, attempt) == [0, 0]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"3.0 2"}
    assert len(list(tmp_path.iterdir())) == 4


def sum_up_alone(folder: Path) -> None:
    join_ranks("gloo")
    total = torch.tensor([dist.get_rank() + 1.0])
    dist.all_reduce(total)
    (folder / str(dist.get_rank())).write_text(str(total.item()))
    dist.destroy_process_group()


def test_without_a_store_of_the_launcher_the_first_rank_opens_one(tmp_path: Path) -> None:
    assert run_ranks(sum_up_alone, 2, tmp_path) == [0, 0]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"3.0"}
