"""Buckets: what is exchanged and owned together, and the sums on their way to the owners."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from megatron_core.collectives import Span, tree_sum
from megatron_core.config import Grid
from megatron_core.model import GridShard, LanguageModel, ParameterShard, Share, parameter_shards
from megatron_core.optimizer import BLOCK, FlatLayout
from megatron_core.parallel.bucket import Bucket, BucketGradient, Replicas, make_buckets
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import Mesh, open_mesh
from tests.ranks import run_ranks
from tests.recipes import FAMILIES
from tests.spans import normal

CPU = torch.device("cpu")
GRID = Grid(data=8, tensor=2, context=4)
# Longer than one block, shorter, and just over: cut over three owners and more.
SIZES = {"long": 5 * BLOCK + 40, "short": 33, "odd": BLOCK + 7}


def model_of(family: str, tensor: Span) -> LanguageModel:
    model = LanguageModel(FAMILIES[family], Share(tensor=tensor))
    for shard in parameter_shards(model):
        shard.parameter.data.copy_(normal(shard.key, *shard.parameter.shape))
    return model


def buckets_of(model: LanguageModel, mesh: Mesh, megabytes: float = 25.0) -> list[Bucket]:
    return make_buckets(
        parameter_shards(model), mesh, mesh.tensor(GRID), mesh.context(GRID), tied=model.tied,
        dtype=torch.float32, megabytes=megabytes,
    )  # fmt: skip


@pytest.mark.parametrize("megabytes", [1e-6, 0.01, 25.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_shard_is_in_one_bucket_of_its_kind(family: str, megabytes: float) -> None:
    mesh = Mesh(Layout(), 0, CPU)
    model = model_of(family, mesh.tensor(GRID))
    buckets = buckets_of(model, mesh, megabytes)
    keys = [shard.key for bucket in buckets for shard in bucket.shards]
    assert sorted(keys) == sorted(shard.key for shard in parameter_shards(model))
    for bucket in buckets:
        assert {bucket.tied} == {shard.place.tensor in model.tied for shard in bucket.shards}
        assert len({(shard.place.expert, shard.place.sliced) for shard in bucket.shards}) == 1
        elements = sum(shard.parameter.numel() for shard in bucket.shards)
        alone = len(bucket.shards) == 1 or bucket.shards[0].place.tensor in {
            *model.tied, *model.tied.values()
        }  # fmt: skip
        assert alone or elements * 4 <= megabytes * 2**20
    order = [keys.index(f"layers.{layer}.attention.query.weight/0") for layer in range(3)]
    assert order == sorted(order, reverse=True)  # as the backward pass completes them


def test_a_tied_copy_shares_the_weights_but_not_the_sum() -> None:
    mesh = Mesh(Layout(), 0, CPU)
    model = model_of("decoder", mesh.tensor(GRID))
    buckets = buckets_of(model, mesh)
    (copy,) = (bucket for bucket in buckets if bucket.tied)
    (owner,) = (b for b in buckets if b.shards[0].place.tensor == "embedding.weight")
    assert copy.owner is owner
    assert copy.weights.data_ptr() == owner.weights.data_ptr()
    assert copy.state.weights.numel() == 0
    for bucket in buckets:
        bucket.adopt()
    ours, theirs = model.head.shards, model.embedding.shards
    assert [w.data_ptr() for w in ours] == [w.data_ptr() for w in theirs]


def test_the_model_computes_from_the_buffers() -> None:
    mesh = Mesh(Layout(), 0, CPU)
    model = model_of("untied", mesh.tensor(GRID))
    before = {s.key: s.parameter.detach().clone() for s in parameter_shards(model)}
    buckets = buckets_of(model, mesh, 0.01)
    for bucket in buckets:
        bucket.adopt()
        assert bucket.state.weights.data_ptr() == bucket.weights.data_ptr()
    for shard in parameter_shards(model):
        assert torch.equal(shard.parameter, before[shard.key])
    for bucket in buckets:
        bucket.weights.fill_(7.0)
    assert all(bool((shard.parameter == 7.0).all()) for shard in parameter_shards(model))


def long_shards() -> list[ParameterShard]:
    """Parameters of one dimension, zero."""
    return [
        ParameterShard(
            GridShard(name, 0, (size,), None, 1, expert=False, sliced=False),
            nn.Parameter(torch.zeros(size)),
        )
        for name, size in SIZES.items()
    ]


@pytest.mark.parametrize("layout", [Layout(data=4), Layout(context=4), Layout(data=4, context=2)])
def test_owners_share_whole_blocks(layout: Layout) -> None:
    meshes = [Mesh(layout, rank, CPU) for rank in range(layout.ranks)]
    buckets = [
        Bucket(long_shards(), Replicas.of(mesh, mesh.context(GRID), expert=False),
               dtype=torch.float32, device=CPU)
        for mesh in meshes
    ]  # fmt: skip
    assert len({tuple(bucket.bounds) for bucket in buckets}) == 1
    owned = sorted((bucket.own.start, bucket.own.stop) for bucket in buckets)
    assert owned == list(pairwise(buckets[0].bounds))
    assert sum(start < stop for start, stop in owned) >= 3  # one tensor has several owners
    for bucket in buckets:
        assert all(run.offset % BLOCK == 0 for run in bucket.runs)
        assert len(bucket.state.first) == bucket.own.stop - bucket.own.start
    replicas = buckets[0].replicas
    for cut, number in enumerate(replicas.owners):
        assert buckets[number].replicas.own == cut  # ranks of one group are in order here


def leaf(shard: int, chunk: int, variant: int, name: str) -> Tensor:
    return normal(f"{shard}.{chunk}.{variant}.{name}", SIZES[name])


def summed(mesh: Mesh, *, sliced: bool) -> Tensor:
    """The owned cut of a gradient whose every leaf comes from two microbatches."""
    context, tensor = mesh.context(GRID), mesh.tensor(GRID)
    replicas = Replicas.of(mesh, context, expert=False)
    bucket = Bucket(long_shards(), replicas, dtype=torch.float32, device=CPU)
    variants = len(tensor.local) if sliced else 1
    shards = mesh.owned_shards(GRID.data)
    gradient = BucketGradient(
        bucket, variants=variants, tensor=tensor if sliced else None, shards=shards,
        uses=2 * len(context.local) * variants * len(SIZES),
    )  # fmt: skip
    for _ in range(2):  # the second step must know nothing of the first
        gradient.begin()
        for shard in shards:
            for microbatch in range(2):
                for number, chunk in enumerate(context.local):
                    for variant in range(variants):
                        piece = tensor.local[variant] if sliced else 0
                        for place, name in enumerate(SIZES):
                            target = gradient.target(shard, number, variant, place)
                            target += leaf(shard, chunk, piece, name) / (1 + microbatch)
                            gradient.arrived(shard)
        gradient.finish()
    return bucket.gradient


def work(layout: Layout, sliced: bool, folder: Path) -> None:
    with open_mesh(layout, "cpu", 1) as mesh:
        place = mesh.context(GRID).rank * layout.data + mesh.data_rank
        cut = summed(mesh, sliced=sliced)
        torch.save(cut, folder / f"{mesh.coordinates['tensor']}.{place}.pt")


def expected(*, sliced: bool) -> Tensor:
    """Microbatches in a row, then the trees over slices, chunks and data shards."""
    layout = FlatLayout({f"{name}/0": torch.Size([size]) for name, size in SIZES.items()})
    whole = torch.zeros(layout.size)
    for name in SIZES:

        def sums(shard: int, chunk: int, name: str = name) -> Tensor:
            slices = [leaf(shard, chunk, piece, name) for piece in range(2 if sliced else 1)]
            return tree_sum([x + x / 2 for x in slices])

        data = [tree_sum([sums(s, c) for c in range(GRID.context)]) for s in range(GRID.data)]
        layout.views(whole)[f"{name}/0"].copy_(tree_sum(data))
    return whole


@pytest.mark.parametrize("sliced", [False, True])
def test_a_gradient_is_the_trees_over_slices_chunks_and_data_shards(sliced: bool) -> None:
    with open_mesh(Layout(), "cpu", 1) as mesh:
        assert torch.equal(summed(mesh, sliced=sliced), expected(sliced=sliced))


@pytest.mark.parametrize(
    ("layout", "sliced"),
    [
        (Layout(data=4), False),
        (Layout(data=2, context=2), False),
        (Layout(data=2, context=2, tensor=2), True),
    ],
    ids=str,
)
def test_owners_get_their_cuts_of_the_same_bits(
    layout: Layout, sliced: bool, tmp_path: Path
) -> None:
    assert run_ranks(work, layout.ranks, layout, sliced, tmp_path) == [0] * layout.ranks
    for tensor in range(layout.tensor):
        cuts = [
            torch.load(tmp_path / f"{tensor}.{i}.pt") for i in range(layout.ranks // layout.tensor)
        ]
        assert torch.equal(torch.cat(cuts), expected(sliced=sliced))
        assert len([cut for cut in cuts if len(cut)]) >= 3


def test_a_gradient_that_did_not_arrive_is_named() -> None:
    mesh = Mesh(Layout(), 0, CPU)
    replicas = Replicas.of(mesh, mesh.context(Grid()), expert=False)
    bucket = Bucket(long_shards(), replicas, dtype=torch.float32, device=CPU)
    gradient = BucketGradient(bucket, variants=1, tensor=None, shards=range(1), uses=3)
    gradient.begin()
    gradient.target(0, 0, 0, 0)
    gradient.arrived(0)
    with pytest.raises(RuntimeError, match="2 gradients of long/0, short/0, odd/0 did not arrive"):
        gradient.finish()


def publish(folder: Path) -> None:
    """Each rank writes its own cut; leaves what its replica then computes from."""
    with open_mesh(Layout(data=2, context=2), "cpu", 1) as mesh:
        found = {}
        for dtype in (torch.float32, torch.bfloat16):
            replicas = Replicas.of(mesh, mesh.context(GRID), expert=False)
            bucket = Bucket(long_shards(), replicas, dtype=dtype, device=CPU)
            bucket.adopt()
            bucket.state.weights.copy_(normal("weights", bucket.layout.size)[bucket.own])
            bucket.publish()
            found[dtype] = bucket.weights
        torch.save(found, folder / f"{mesh.rank}.pt")


def test_every_replica_computes_from_all_owners_weights(tmp_path: Path) -> None:
    assert run_ranks(publish, 4, tmp_path) == [0] * 4
    for rank in range(4):
        for dtype, weights in torch.load(tmp_path / f"{rank}.pt").items():
            assert torch.equal(weights, normal("weights", len(weights)).to(dtype))
