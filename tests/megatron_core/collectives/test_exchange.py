"""Sums between real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_core.collectives import exchange_sum, gather_numbers
from tests.ranks import run_ranks

SIZES = (1, 15, 16, 17, 64, 1000)


def part(rank: int, size: int) -> torch.Tensor:
    """What rank ``rank`` brings: numbers whose sum depends on the order."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(size, generator=generator) * 10.0 ** (3 * (rank % 3))


def work(folder: Path) -> None:
    """Sum over the ranks and leave what this one got."""
    dist.init_process_group("gloo")
    rank, group = dist.get_rank(), dist.group.WORLD
    sums = [exchange_sum(part(rank, size), group) for size in SIZES]
    numbers = gather_numbers([rank + 0.1, 1e300 * rank], group)
    torch.save((sums, numbers), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_rank_gets_the_tree_sum(ranks: int, tmp_path: Path) -> None:
    assert run_ranks(work, ranks, tmp_path) == [0] * ranks
    for rank in range(ranks):
        sums, numbers = torch.load(tmp_path / f"{rank}.pt")
        for size, found in zip(SIZES, sums, strict=True):
            parts = [part(i, size) for i in range(ranks)]
            expected = parts[0] + parts[1]
            if ranks == 4:
                expected = expected + (parts[2] + parts[3])
            assert torch.equal(found, expected)
        assert numbers == [x for i in range(ranks) for x in (i + 0.1, 1e300 * i)]


def test_alone_nothing_changes() -> None:
    buffer = part(0, 17)
    assert exchange_sum(buffer, None) is buffer
    assert gather_numbers([0.1, 0.2], None) == [0.1, 0.2]
