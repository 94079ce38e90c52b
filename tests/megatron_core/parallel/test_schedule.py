"""Orders of a pipeline: complete, without deadlock, within memory, as fast as published."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_core.errors import ConfigError
from megatron_core.parallel.layout import PipelineSchedule
from megatron_core.parallel.schedule import (
    Action,
    forward_actions,
    pipeline_actions,
    simulate,
    stage_layers,
)

UNITS = {"forward": 1.0, "backward": 1.0, "weight": 1.0}


def cost(action: Action) -> float:
    """A backward pass takes two forward ones, as does its split form in all."""
    return UNITS[action.kind]


def whole(action: Action) -> float:
    return 2.0 if action.kind == "backward" else 1.0


Case = tuple[PipelineSchedule, int, int, int]


@st.composite
def pipelines(draw: st.DrawFn) -> Case:
    kind: PipelineSchedule = draw(st.sampled_from(["1f1b", "interleaved", "zero_bubble"]))
    stages = draw(st.integers(2, 5)) if kind == "interleaved" else 1
    return kind, draw(st.integers(1, 9)), stages, draw(st.integers(1, 30))


def in_flight(actions: list[Action], until: str) -> int:
    """The most microbatches, of all stages of a rank, between a forward pass and ``until``."""
    steps = ((a.kind == "forward") - (a.kind == until) for a in actions)
    return max(itertools.accumulate(steps))


@settings(deadline=None, max_examples=200)
@given(pipelines())
def test_every_pass_comes_once_in_an_order_that_can_run(
    pipeline: Case,
) -> None:
    kind, ranks, stages, microbatches = pipeline
    orders = pipeline_actions(kind, ranks=ranks, stages=stages, microbatches=microbatches)
    kinds = ["forward", "backward"] + ["weight"] * (kind == "zero_bubble")
    for rank, order in enumerate(orders):
        assert sorted(order) == sorted(
            Action(each, rank + ranks * chunk, microbatch)  # type: ignore[arg-type]
            for each in kinds
            for chunk in range(stages)
            for microbatch in range(microbatches)
        )
        passes = itertools.product(kinds, range(rank, ranks * stages, ranks))
        for each, stage in passes:
            mine = [a.microbatch for a in order if (a.kind, a.stage) == (each, stage)]
            assert mine == list(range(microbatches)), "sums are added in the order of microbatches"
    assert simulate(orders, cost).makespan >= len(orders[0])  # raises if they wait in a circle


@settings(deadline=None, max_examples=200)
@given(pipelines())
def test_no_more_is_in_flight_than_published(
    pipeline: Case,
) -> None:
    kind, ranks, stages, microbatches = pipeline
    orders = pipeline_actions(kind, ranks=ranks, stages=stages, microbatches=microbatches)
    for rank, order in enumerate(orders):
        held = in_flight(order, "weight" if kind == "zero_bubble" else "backward")
        if kind == "zero_bubble":
            assert held <= ranks  # what the first rank of 1F1B holds
            assert in_flight(order, "backward") <= ranks - rank
        elif kind == "1f1b":
            assert held == min(ranks - rank, microbatches)
        else:
            assert held <= 2 * (ranks - rank - 1) + (stages - 1) * ranks + 1


@pytest.mark.parametrize(("ranks", "microbatches"), [(1, 3), (2, 1), (4, 2), (4, 6), (7, 20)])
def test_1f1b_is_warm_up_then_one_forward_one_backward(ranks: int, microbatches: int) -> None:
    for rank, order in enumerate(
        pipeline_actions("1f1b", ranks=ranks, stages=1, microbatches=microbatches)
    ):
        warm_up = min(ranks - rank - 1, microbatches)
        expected = [Action("forward", rank, n) for n in range(warm_up)]
        for n in range(microbatches):
            if n + warm_up < microbatches:
                expected.append(Action("forward", rank, n + warm_up))
            expected.append(Action("backward", rank, n))
        assert order == expected


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("microbatches", [1, 2, 3, 8, 24])
def test_bubbles_are_those_published(ranks: int, microbatches: int) -> None:
    """Narayanan et al. (2021), section 2.2; Qi et al. (2024), table 2."""
    plain = simulate(
        pipeline_actions("1f1b", ranks=ranks, stages=1, microbatches=microbatches), whole
    )
    assert plain.bubble == pytest.approx((ranks - 1) / (microbatches + ranks - 1))
    split = simulate(
        pipeline_actions("zero_bubble", ranks=ranks, stages=1, microbatches=microbatches), cost
    )
    assert split.busy == plain.busy
    if ranks > 1:
        assert split.bubble < plain.bubble
    if microbatches >= ranks:  # (ranks - 1) (forward + backward - weight)
        assert split.makespan == 3 * microbatches + ranks - 1
    for stages in (2, 3, 4):
        interleaved = simulate(
            pipeline_actions("interleaved", ranks=ranks, stages=stages, microbatches=microbatches),
            whole,
        )
        # A last group that is not full costs no more than a full one.
        full = -(-microbatches // ranks) * ranks
        assert interleaved.makespan <= 3 * (stages * full + ranks - 1)
        if full == microbatches:
            bubble = (ranks - 1) / (stages * microbatches + ranks - 1)
            assert interleaved.bubble == pytest.approx(bubble)


@pytest.mark.parametrize(("ranks", "stages", "microbatches"), [(1, 1, 3), (4, 1, 2), (3, 2, 7)])
def test_forward_passes_alone(ranks: int, stages: int, microbatches: int) -> None:
    orders = forward_actions(ranks=ranks, stages=stages, microbatches=microbatches)
    for rank, order in enumerate(orders):
        assert {(a.kind, a.stage % ranks) for a in order} == {("forward", rank)}
        assert len(set(order)) == len(order) == stages * microbatches
    simulate(orders, cost)


def test_time_on_the_way_and_stages_of_different_length() -> None:
    """By hand: 0 sends after 1, 1 works from 3 to 6 and back from 6 to 12, 0 ends at 14 + 2."""
    orders = pipeline_actions("1f1b", ranks=2, stages=1, microbatches=1)
    timeline = simulate(orders, lambda a: whole(a) * (1 + 2 * a.stage), transfer=2.0)
    assert timeline.makespan == 16.0
    assert timeline.busy == (3.0, 9.0)
    assert timeline.bubble == pytest.approx(1 - 12 / 32)


def test_orders_that_wait_for_each_other_are_named() -> None:
    orders = pipeline_actions("1f1b", ranks=2, stages=1, microbatches=2)
    orders[0].reverse()
    with pytest.raises(ValueError, match=re.escape("wait for each other: [Action(kind='backward'")):
        simulate(orders, cost)


def test_only_interleaved_has_several_stages_per_rank() -> None:
    with pytest.raises(ConfigError, match="schedule=1f1b has one stage per rank, not 2"):
        pipeline_actions("1f1b", ranks=2, stages=2, microbatches=2)


@pytest.mark.parametrize(
    ("layers", "stages", "lengths"),
    [
        (4, 1, [4]),
        (8, 4, [2, 2, 2, 2]),
        (5, 4, [1, 1, 2, 1]),
        (6, 4, [1, 2, 2, 1]),
        (7, 4, [2, 2, 2, 1]),
        (3, 2, [2, 1]),
        (105, 35, [3] * 35),
    ],
)
def test_layers_are_shared_evenly(layers: int, stages: int, lengths: list[int]) -> None:
    split = stage_layers(layers, stages)
    assert [len(each) for each in split] == lengths
    assert [layer for each in split for layer in each] == list(range(layers))


def test_a_stage_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="4 pipeline stages cannot share 3 layers"):
        stage_layers(3, 4)
