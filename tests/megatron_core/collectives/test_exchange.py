"""Flat buffers between real processes: sums of cuts, copies of cuts, numbers put together."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_core.collectives import CutSum, merge, share_cuts
from tests.ranks import run_ranks

RANKS = (2, 4, 8)
SIZES = (1, 15, 16, 64, 1000)


def part(rank: int, size: int) -> torch.Tensor:
    """What rank ``rank`` brings: numbers whose sum depends on the order."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(size, generator=generator)


def tree(parts: list[torch.Tensor]) -> torch.Tensor:
    """The left half plus the right half."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return tree(parts[:middle]) + tree(parts[middle:])


def bounds_of(size: int, ranks: int) -> list[int]:
    """Uneven cuts of ``size`` numbers, some of them empty."""
    return [0, *sorted(size * (7 * i % (ranks + 1)) // (ranks + 1) for i in range(1, ranks)), size]


def owners_of(ranks: int) -> list[int]:
    """The cuts in another order than the ranks."""
    return [(3 * i + 1) % ranks for i in range(ranks)]


def work(folder: Path) -> None:
    """Every exchange over all ranks; leaves what this one got."""
    dist.init_process_group("gloo")
    rank, ranks, group = dist.get_rank(), dist.get_world_size(), dist.group.WORLD
    sums = [CutSum(part(rank, size), bounds_of(size, ranks), group) for size in SIZES]
    cuts = [begun.wait() for begun in sums]  # all under way at once
    shared = []
    for size in SIZES:
        buffer = torch.full((size,), -1.0)
        for owner, (start, stop) in zip(
            owners_of(ranks), pairwise(bounds_of(size, ranks)), strict=True
        ):
            if owner == rank:
                buffer[start:stop] = part(99, size)[start:stop]
        share_cuts(buffer, bounds_of(size, ranks), owners_of(ranks), group)
        shared.append(buffer)
    mine = torch.zeros(3 * ranks, dtype=torch.float64)
    mine[rank::ranks] = part(rank, 3).double()
    counts = merge(torch.tensor([2**40 + rank, -rank]), group)
    torch.save((cuts, shared, merge(mine, group), counts), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=RANKS)
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor, torch.Tensor]]:
    """What every rank got."""
    ranks, folder = request.param, tmp_path_factory.mktemp("exchange")
    assert run_ranks(work, ranks, folder) == [0] * ranks
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


def test_every_rank_gets_its_cut_of_the_tree_sum(found: list[tuple]) -> None:  # type: ignore[type-arg]
    ranks = len(found)
    for i, size in enumerate(SIZES):
        expected = tree([part(rank, size) for rank in range(ranks)])
        for (start, stop), (cuts, *_) in zip(pairwise(bounds_of(size, ranks)), found, strict=True):
            assert torch.equal(cuts[i], expected[start:stop])
        in_a_row = sum(part(rank, size) for rank in range(ranks))
        assert ranks == 2 or size < 1000 or not torch.equal(expected, in_a_row)


def test_cuts_are_copied_to_every_rank(found: list[tuple]) -> None:  # type: ignore[type-arg]
    for _, shared, *_ in found:
        for size, buffer in zip(SIZES, shared, strict=True):
            assert torch.equal(buffer, part(99, size))


def test_numbers_filled_by_one_rank_each_are_put_together(found: list[tuple]) -> None:  # type: ignore[type-arg]
    ranks = len(found)
    expected = torch.stack([part(rank, 3).double() for rank in range(ranks)], dim=1).flatten()
    for _, _, merged, counts in found:
        assert torch.equal(merged, expected)
        total = sum(range(ranks))
        assert counts.tolist() == [ranks * 2**40 + total, -total]


def test_alone_nothing_moves() -> None:
    buffer = part(0, 17)
    assert CutSum(buffer, [0, 17], None).wait() is buffer
    assert merge(buffer, None) is buffer
    share_cuts(buffer, [0, 17], [0], None)
    assert torch.equal(buffer, part(0, 17))
