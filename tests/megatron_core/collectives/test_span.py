"""A dimension of the grid as seen from a rank, alone and between real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from megatron_core.collectives import ContextSpan, Span, tree_sum
from tests.ranks import run_ranks

GRIDS = (1, 2, 4, 8, 16, 32)
RANKS = (2, 4, 8)


def part(rank: int) -> torch.Tensor:
    """What rank ``rank`` brings, ``[8, 3]``: numbers whose sum depends on the order."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(8, 3, generator=generator)


def work(folder: Path) -> None:
    """Every method over all ranks; leaves what this one got."""
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    span = Span(16, ranks, rank, dist.group.WORLD)
    strided = part(rank).repeat_interleave(2, dim=1)[:, ::2]
    found = {
        "gather": span.gather(part(rank)),
        "gather strided": span.gather(strided),
        "scatter_sum": span.scatter_sum(part(rank)),
        "scatter_sum strided": span.scatter_sum(strided),
        "sum": span.sum(part(rank)),
        "sum of one": span.sum(part(rank)[0, 0]),
        "maximum": span.maximum(part(rank)),
        "numbers": span.gather(torch.tensor([2**40 + rank])),
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=RANKS)
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, torch.Tensor]]:
    """What every rank got."""
    ranks, folder = request.param, tmp_path_factory.mktemp("span")
    assert run_ranks(work, ranks, folder) == [0] * ranks
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


def test_gathering_puts_ranks_in_order(found: list[dict[str, torch.Tensor]]) -> None:
    whole = torch.cat([part(rank) for rank in range(len(found))])
    for got in found:
        assert torch.equal(got["gather"], whole)
        assert torch.equal(got["gather strided"], whole)
        assert got["numbers"].tolist() == [2**40 + rank for rank in range(len(found))]


def test_sums_are_the_tree(found: list[dict[str, torch.Tensor]]) -> None:
    ranks = len(found)
    total = tree_sum([part(rank) for rank in range(ranks)])
    in_a_row = sum(part(rank) for rank in range(ranks))
    assert ranks == 2 or not torch.equal(total, in_a_row)
    for rank, got in enumerate(found):
        assert torch.equal(got["sum"], total)
        assert torch.equal(got["sum of one"], total[0, 0])
        for scattered in (got["scatter_sum"], got["scatter_sum strided"]):
            assert torch.equal(scattered, total.chunk(ranks)[rank])


def test_the_maximum_is_elementwise(found: list[dict[str, torch.Tensor]]) -> None:
    expected = torch.stack([part(rank) for rank in range(len(found))]).amax(dim=0)
    assert all(torch.equal(got["maximum"], expected) for got in found)


@pytest.mark.parametrize("method", ["gather", "scatter_sum", "sum", "maximum"])
def test_alone_a_tensor_is_given_back_as_it_is(method: str) -> None:
    """Not even copied, whatever the grid."""
    x = part(0)
    for shards in GRIDS:
        assert getattr(Span(shards), method)(x) is x


def spans(kind: type[Span], shards: int) -> list[tuple[int, list[Any]]]:
    """For each number of ranks that a grid allows, the spans of all of them."""
    degrees = [2**k for k in range(shards.bit_length())]
    return [(n, [kind(shards, n, rank) for rank in range(n)]) for n in degrees]


@pytest.mark.parametrize("shards", GRIDS)
def test_ranks_own_aligned_blocks_that_cover_the_grid(shards: int) -> None:
    for ranks, seen in spans(Span, shards):
        assert [shard for span in seen for shard in span.local] == list(range(shards))
        assert all(span.local.start % len(span.local) == 0 for span in seen)
        assert {len(span.local) for span in seen} == {shards // ranks}


@pytest.mark.parametrize("shards", GRIDS)
def test_context_chunks_are_leaves_of_one_tree_in_another_order(shards: int) -> None:
    span = ContextSpan(shards)
    assert sorted(span.chunks) == list(range(shards))
    assert [span.leaf(span.chunk(leaf)) for leaf in range(shards)] == list(range(shards))
    for _, seen in spans(ContextSpan, shards):
        assert [chunk for s in seen for chunk in s.chunks] == list(span.chunks)


@pytest.mark.parametrize("shards", GRIDS)
def test_every_context_rank_has_the_same_causal_work(shards: int) -> None:
    """Query chunk c sees c + 1 chunks of keys. One chunk per rank alone cannot be balanced."""
    for ranks, seen in spans(ContextSpan, shards):
        if ranks < shards or shards == 1:
            assert len({sum(chunk + 1 for chunk in span.chunks) for span in seen}) == 1
