"""One step on any layout: its gradient, what is known of it, and what each rank multiplies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_core.config import BatchSizes, Grid, KernelsConfig, PretrainConfig
from megatron_core.parallel.batch import Batch, LossSums
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from tests import plain
from tests.engines import engine_of, whole_gradient
from tests.operations import ATTENTION, Operations, Reads
from tests.ranks import run_ranks
from tests.recipes import recipe, small_model


class Tokens:
    """Samples that are functions of their numbers; some targets do not count."""

    def read(self, samples: range) -> Batch:
        table = torch.tensor(
            [[(7 * k + 3 * t + k * t) % 64 for t in range(17)] for k in samples]
        )  # fmt: skip
        targets = table[:, 1:].clone()
        targets[:, ::5] = -100
        return Batch(table[:, :-1], targets, int((targets >= 0).sum()))

    def heldout(self, microbatch: int, multiple: int) -> list[Callable[[], Batch]]:
        return [
            lambda i=i: self.read(range(i * microbatch, (i + 1) * microbatch))  # type: ignore[misc]
            for i in range(2 * multiple)
        ]


MODELS = {
    "decoder": small_model(),
    "untied": small_model(tied_embeddings=False, kv_heads=4),
    "encoder": small_model(kind="encoder"),
}
GRIDS = {
    "one": Grid(),
    "tensor": Grid(tensor=2),
    "context": Grid(context=4),
    "all": Grid(data=4, tensor=2, context=2),
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_gradient_is_autograds_of_the_mean_loss_in_float64(model: Any, grid: Grid) -> None:
    """Also where data shards have different numbers of predictions."""
    config = recipe(model=model, grid=grid)
    with open_mesh(Layout(), "cpu", 1) as mesh:
        engine = engine_of(config, mesh)
        loss, count, _ = engine.gradient(Tokens().read, 1).read()
    weights = {n: w.requires_grad_() for n, w in plain.initial_weights(config).items()}
    exact = plain.mean_loss(weights, config, Tokens(), 1)
    exact.backward()
    assert loss == pytest.approx(exact.item(), rel=1e-6)
    assert count == Tokens().read(range(config.batch.sequences)).count
    ours = whole_gradient(engine)
    assert ours.keys() == weights.keys()
    for name, weight in weights.items():
        assert weight.grad is not None
        scale = float(weight.grad.abs().max())
        torch.testing.assert_close(
            ours[name].double(), weight.grad, rtol=1e-4, atol=2e-6 * scale, msg=name
        )  # fmt: skip


def test_tied_gradients_are_added_once_at_the_end_of_the_step() -> None:
    """The count of predictions is a power of two, so that dividing by it rounds nothing."""

    def read(samples: range) -> Batch:
        batch = Tokens().read(samples)
        return Batch(batch.tokens, batch.targets.clamp(min=0), batch.targets.numel())

    found = {}
    for tied in (True, False):
        config = recipe(model=small_model(tied_embeddings=tied))
        with open_mesh(Layout(), "cpu", 1) as mesh:
            engine = engine_of(config, mesh)
            if not tied:
                head, embedding = (
                    next(b for b in engine.buckets if f"{name}.weight/0" in b.layout.shapes)
                    for name in ("head", "embedding")
                )
                views = head.layout.views(head.weights)
                for key, view in embedding.layout.views(embedding.weights).items():
                    if key.startswith("embedding"):
                        views[key.replace("embedding", "head")].copy_(view)
            engine.gradient(read, 1)
            found[tied] = whole_gradient(engine)
    apart = found[False]
    assert torch.equal(
        found[True]["embedding.weight"], apart["embedding.weight"] + apart["head.weight"]
    )
    assert torch.equal(found[True]["layers.0.ffn.up.weight"], apart["layers.0.ffn.up.weight"])


def test_a_loss_scale_that_is_a_power_of_two_changes_no_bit() -> None:
    with open_mesh(Layout(), "cpu", 1) as mesh:
        engine = engine_of(recipe(), mesh)
        engine.gradient(Tokens().read, 1)
        plainly = whole_gradient(engine)
        engine.gradient(Tokens().read, 1, scale=2.0**12)
        assert all(torch.equal(plainly[n], g) for n, g in whole_gradient(engine).items())


def test_what_is_measured_is_what_the_gradient_holds() -> None:
    with open_mesh(Layout(), "cpu", 1) as mesh:
        engine = engine_of(recipe(), mesh)
        engine.gradient(Tokens().read, 1)
        measured = engine.measure(checksums=True)
        gradient, names = whole_gradient(engine), list(engine.catalogue)
        assert list(measured.squares) == names == sorted(names)
        for number, shard in enumerate(engine.catalogue.values()):
            part = shard.cut(gradient[shard.tensor]).contiguous()
            exact = float(part.double().square().sum())
            assert measured.squares[shard.key] == pytest.approx(exact, rel=1e-12)
            bits = part.flatten().view(torch.int32).tolist()
            assert measured.gradients[number] == sum(bits)
        total = sum(float(g.double().square().sum()) for g in gradient.values())
        assert measured.norm == pytest.approx(total**0.5, rel=1e-12)
        assert measured.nonfinite == []
        weights = {
            (run.tensor, run.shard): int(run.data.view(torch.int32).sum(dtype=torch.int64))
            for run in engine.state()
            if run.kind == "weights"
        }
        assert measured.weights == [
            weights[shard.tensor, shard.shard] for shard in engine.catalogue.values()
        ]
        bucket = next(bucket for bucket in engine.buckets if not bucket.tied)
        bucket.gradient[3] = float("inf")
        poisoned = engine.measure(checksums=False)
        assert poisoned.nonfinite == [bucket.layout.runs(0, 16)[0].name]
        assert poisoned.gradients == poisoned.weights == []


def test_heldout_is_the_mean_loss_and_leaves_no_gradient() -> None:
    config = recipe()
    with open_mesh(Layout(), "cpu", 1) as mesh:
        engine = engine_of(config, mesh)
        batches = Tokens().heldout(config.batch.microbatch, config.grid.data)
        found = engine.heldout(batches)
        assert all(bucket.gradient.numel() == 0 for bucket in engine.buckets)
    weights = plain.initial_weights(config)
    sizes = config.model_copy(update={"batch": BatchSizes(sequences=2 * len(batches))})
    exact = plain.mean_loss(weights, sizes, Tokens(), 1)
    assert found.mean == pytest.approx(exact.item(), rel=1e-6)


def watch(config: PretrainConfig, text: str, folder: Path) -> None:
    """One step; leaves the shapes that were multiplied here, and what state is owned."""
    layout = Layout.parse(text)
    with open_mesh(layout, "cpu", 1) as mesh:
        engine = engine_of(config, mesh)
        with Operations() as operations:
            loss = engine.gradient(Tokens().read, 1).read().mean
        owned = [
            (run.kind, run.tensor, run.shard, run.offset, len(run.data)) for run in engine.state()
        ]
        torch.save((operations.products(), owned, loss), folder / f"{mesh.rank}.pt")


def watched(config: PretrainConfig, layout: str, folder: Path) -> list[Any]:
    ranks = Layout.parse(layout).ranks
    assert run_ranks(watch, ranks, config, layout, folder) == [0] * ranks
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        ("decoder", "data=2,tensor=2,context=2"),
        ("encoder", "tensor=2,context=2"),
        ("untied", "pipeline=3,schedule=zero_bubble"),
        ("experts", "data=2,expert=2,tensor=2"),
    ],
)
def test_every_product_has_the_shape_that_the_grid_defines(
    family: str, layout: str, tmp_path: Path
) -> None:
    """The ranks together multiply what one rank does, product for product."""
    watched_ones = KernelsConfig(default="reference")  # made of torch's operations
    config = recipe(family, batch=BatchSizes(sequences=8, microbatch=2), kernels=watched_ones)
    alone, ranks = tmp_path / "alone", tmp_path / "ranks"
    for folder in (alone, ranks):
        folder.mkdir()
    ((products, owned, loss),) = watched(config, "data=1", alone)
    found = watched(config, layout, ranks)
    assert sum(products.values()) > 1000
    assert {name for name, _ in products} >= {"mm", "addmm_", ATTENTION}
    assert sum((rank[0] for rank in found), Counter()) == products
    assert {rank[2] for rank in found} == {loss}
    # Each part of the state has one owner.
    parts = [part for rank in found for part in rank[1]]
    assert len(parts) == len({part[:4] for part in parts})
    sizes: Counter[tuple[Any, ...]] = Counter()
    for kind, tensor, shard, _, size in parts:
        sizes[kind, tensor, shard] += size
    assert sizes == {(kind, tensor, shard): size for kind, tensor, shard, _, size in owned}


@pytest.mark.parametrize("apart", [False, True], ids=["whole", "documents"])
@pytest.mark.parametrize("family", ["decoder", "untied", "gpt", "olmo", "qwen", "encoder"])
def test_a_step_asks_for_no_number_before_it_judges_the_gradient(family: str, apart: bool) -> None:
    """So a GPU is waited for once, between the backward pass and the update."""
    config = recipe(family, grid=Grid() if apart else Grid(data=4, tensor=2, context=2))
    documents = (torch.arange(16) // 5).expand(config.batch.microbatch, -1) if apart else None
    made = {
        samples: replace(Tokens().read(samples), documents=documents)
        for samples in microbatches(config)
    }
    with open_mesh(Layout(), "cpu", 1) as mesh:
        engine = engine_of(config, mesh)
        with Reads() as reads:
            loss = engine.gradient(made.__getitem__, 1)
            assert reads.places == []
            engine.measure(checksums=True)
            loss.read()
            assert set(reads.places) == {"megatron_core.parallel.measure", LossSums.__module__}
            reads.places.clear()
            engine.update(step=1, rate=1e-3, coefficient=0.5)
            assert reads.places == []
            assert torch.ones(2)[torch.tensor([True, False])].tolist() == [1]
            assert len(reads.places) == 2  # both kinds are seen


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nor_does_a_gpu_wait_before() -> None:
    config = recipe(device="cuda", precision="bf16")
    made = {samples: Tokens().read(samples).pinned() for samples in microbatches(config)}
    with open_mesh(Layout(), "cuda", 1) as mesh:
        engine = engine_of(config, mesh)
        try:
            torch.cuda.set_sync_debug_mode("error")
            loss = engine.gradient(made.__getitem__, 1)
            engine.update(step=1, rate=1e-3, coefficient=0.5)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert loss.read().mean > 0


def microbatches(config: PretrainConfig) -> list[range]:
    """The samples of the first step, as one rank reads them."""
    size = config.batch.microbatch
    return [range(n, n + size) for n in range(0, config.batch.sequences, size)]
