"""Toy stages on real ranks against the same stages one after the other in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kernels.registry import Kernels
from megatron_core.collectives import WHOLE
from megatron_core.model import Place
from megatron_core.model.linear import Split, columns
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.parallel.pipeline import Microbatch, Pipeline
from megatron_core.parallel.schedule import forward_actions, pipeline_actions
from tests.ranks import run_ranks
from tests.spans import normal

S, B, HIDDEN, CHUNKS = 3, 2, 8, 2
COUNTS = (1, 3, 6)  # microbatches: fewer than ranks, and no multiple of them


class Toy(nn.Module):
    """One stage: a linear layer, and what the first and the last stage do besides."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.layer = Split(HIDDEN, HIDDEN, 0, WHOLE)
        self.layer.shards[0].data = normal(f"stage {number}", HIDDEN, HIDDEN)
        self.table = normal("table", 10, HIDDEN)

    def embed(self, tokens: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
        return [self.table[chunk] for chunk in tokens]

    def blocks(self, chunks: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
        outputs = []
        for x, place in zip(chunks, places, strict=True):
            ((y,),) = columns(x, [self.layer], WHOLE, place.leaf)
            outputs.append(x + torch.tanh(y))
        return outputs

    def losses(
        self, chunks: Sequence[Tensor], targets: Sequence[Tensor], places: Sequence[Place]
    ) -> list[Tensor]:
        return [((x - t) ** 2).sum() for x, t in zip(chunks, targets, strict=True)]


class Diary:
    """A leaf that sums weight gradients and notes in which order they came."""

    def __init__(self) -> None:
        self.sums: dict[nn.Parameter, Tensor] = {}
        self.order: dict[nn.Parameter, list[tuple[int, int]]] = {}

    def leaf(self, microbatch: int, chunk: int, deferred: list[Callable[[], None]] | None) -> Any:
        diary = self

        class Leaf:
            def linear(
                self, weight: nn.Parameter, gradient: Tensor, x: Tensor, kernels: Kernels
            ) -> None:
                def product() -> None:
                    total = diary.sums.setdefault(weight, torch.zeros(weight.shape))
                    kernels.add_weight_gradient(total, gradient, x)
                    diary.order.setdefault(weight, []).append((microbatch, chunk))

                product() if deferred is None else deferred.append(product)

        return Leaf()


def microbatch(number: int, diary: Diary | None, *, later: bool) -> Microbatch:
    tokens = [(torch.arange(S * B).view(S, B) * 7 + number + c) % 10 for c in range(CHUNKS)]
    targets = [normal(f"target {number} {c}", S, B, HIDDEN) for c in range(CHUNKS)]
    deferred: list[Callable[[], None]] = []
    leaves = [
        diary and diary.leaf(number, chunk, deferred if later else None) for chunk in range(CHUNKS)
    ]
    places = [Place(chunk, leaf, scale=1.0 + chunk) for chunk, leaf in enumerate(leaves)]
    return Microbatch(tokens, targets, places, deferred)


def work(layout: Layout, folder: Path) -> None:
    """Train and evaluate with each number of microbatches; leaves what this rank knows."""
    with open_mesh(layout, "cpu", 1) as mesh:
        count = layout.pipeline * layout.stages
        mine = [n for n in range(count) if n % layout.pipeline == mesh.rank]
        stages = {number: Toy(number) for number in mine}
        pipeline = Pipeline(
            stages, mesh, count=count, shape=(S, B, HIDDEN), dtype=torch.float32, chunks=CHUNKS
        )
        found = []
        for microbatches in COUNTS:
            diary, later = Diary(), layout.schedule == "zero_bubble"
            work = [microbatch(n, diary, later=later) for n in range(microbatches)]
            shape = {"ranks": layout.pipeline, "stages": layout.stages}
            losses = pipeline.run(
                pipeline_actions(layout.schedule, **shape, microbatches=microbatches), work
            )
            evaluated = pipeline.run(
                forward_actions(**shape, microbatches=microbatches),
                [microbatch(n, None, later=False) for n in range(microbatches)],
            )
            weights = {number: stage.layer.shards[0] for number, stage in stages.items()}
            found.append(
                {
                    "holds_head": pipeline.holds_head, "losses": losses, "evaluated": evaluated,
                    "sums": {number: diary.sums[w] for number, w in weights.items()},
                    "order": {number: diary.order[w] for number, w in weights.items()},
                }
            )  # fmt: skip
        torch.save(found, folder / f"{mesh.rank}.pt")


def in_a_row(count: int, microbatches: int) -> tuple[list[list[Tensor]], list[Tensor]]:
    """Losses and weight gradients of all stages, one microbatch after the other."""
    stages, diary, losses = [Toy(number) for number in range(count)], Diary(), []
    for number in range(microbatches):
        batch = microbatch(number, diary, later=False)
        chunks = stages[0].embed(batch.tokens, batch.places)
        for stage in stages:
            chunks = stage.blocks(chunks, batch.places)
        totals = stages[-1].losses(chunks, batch.targets, batch.places)
        scales = [torch.tensor(place.scale) for place in batch.places]
        torch.autograd.backward(totals, scales)
        losses.append([loss.detach() for loss in totals])
    return losses, [diary.sums[stage.layer.shards[0]] for stage in stages]


Ran = tuple[Layout, list[list[dict[str, Any]]]]

LAYOUTS = [
    Layout(pipeline=2),
    Layout(pipeline=4),
    Layout(pipeline=3, schedule="zero_bubble"),
    Layout(pipeline=2, stages=3, schedule="interleaved"),
]


@pytest.fixture(scope="module", params=LAYOUTS, ids=str)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """What every rank of a layout knows of each case."""
    layout, folder = request.param, tmp_path_factory.mktemp("pipeline")
    assert run_ranks(work, layout.pipeline, layout, folder) == [0] * layout.pipeline
    return layout, [torch.load(folder / f"{rank}.pt") for rank in range(layout.pipeline)]


def test_stages_on_ranks_give_the_bits_of_stages_in_a_row(ran: Ran) -> None:
    layout, ranks = ran
    for case, microbatches in enumerate(COUNTS):
        losses, sums = in_a_row(layout.pipeline * layout.stages, microbatches)
        for number, rank in enumerate(ranks):
            found = rank[case]
            assert found["holds_head"] == (number == layout.pipeline - 1)
            expected = losses if found["holds_head"] else [[]] * microbatches
            assert found["losses"] == found["evaluated"] == expected
            assert not any(loss.requires_grad for row in found["losses"] for loss in row)
            for stage, total in found["sums"].items():
                assert torch.equal(total, sums[stage])


def test_gradients_reach_each_weight_by_the_numbers_of_the_microbatches(ran: Ran) -> None:
    _, ranks = ran
    for rank in ranks:
        for case, microbatches in zip(rank, COUNTS, strict=True):
            for order in case["order"].values():
                assert [number for number, _ in order[::CHUNKS]] == list(range(microbatches))
                assert sorted(order) == [(m, c) for m in range(microbatches) for c in range(CHUNKS)]


def test_one_rank_needs_no_messages() -> None:
    """Nor any process group."""
    with open_mesh(Layout(), "cpu", 1) as mesh:
        stage, diary = Toy(0), Diary()
        pipeline = Pipeline(
            {0: stage}, mesh, count=1, shape=(S, B, HIDDEN), dtype=torch.float32, chunks=CHUNKS
        )
        found = pipeline.run(
            pipeline_actions("1f1b", ranks=1, stages=1, microbatches=3),
            [microbatch(n, diary, later=False) for n in range(3)],
        )
    losses, sums = in_a_row(1, 3)
    assert found == losses
    assert torch.equal(diary.sums[stage.layer.shards[0]], sums[0])
