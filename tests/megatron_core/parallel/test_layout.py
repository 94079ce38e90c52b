"""Which ranks a run takes, and what it refuses."""

from __future__ import annotations

import re

import pytest

from megatron_core.config import ExpertsConfig, Grid, ModelConfig
from megatron_core.errors import ConfigError
from megatron_core.parallel.layout import Layout

GRIDS = {
    "pretrain": Grid(data=8, tensor=2, context=2),
    "finetune.continued": Grid(data=4, tensor=2),
}
MODEL = ModelConfig(layers=4, experts=ExpertsConfig(count=4))


@pytest.mark.parametrize(
    ("text", "layout", "ranks"),
    [
        ("data=1", Layout(), 1),
        ("data=16", Layout(data=16), 16),
        ("tensor=2", Layout(tensor=2), 2),
        ("context=4,data=2", Layout(data=2, context=4), 8),
        ("data=2,tensor=2,pipeline=3", Layout(data=2, tensor=2, pipeline=3), 12),
        ("data=4,expert=2", Layout(data=4, expert=2), 4),  # experts take no ranks of their own
        ("pipeline=2,stages=2", Layout(pipeline=2, stages=2, schedule="interleaved"), 2),
        ("pipeline=2,schedule=zero_bubble", Layout(pipeline=2, schedule="zero_bubble"), 2),
        (
            "data=2,tensor=2,pipeline=2,stages=2,schedule=interleaved",
            Layout(data=2, tensor=2, pipeline=2, stages=2, schedule="interleaved"),
            8,
        ),
    ],
)
def test_a_layout_is_read_and_written(text: str, layout: Layout, ranks: int) -> None:
    assert Layout.parse(text) == layout
    assert layout.ranks == ranks
    assert Layout.parse(str(layout)) == layout


def test_a_record_has_what_differs_from_one_rank() -> None:
    assert Layout().degrees() == {"data": 1}
    assert str(Layout()) == "data=1"
    interleaved = Layout.parse("tensor=2,pipeline=4,stages=2")
    assert interleaved.degrees() == {
        "data": 1, "tensor": 2, "pipeline": 4, "stages": 2, "schedule": "interleaved"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`` is no dimension of a layout; write NAME=N, separated by commas, with the names"),
        ("2", "`2` is no dimension of a layout"),
        ("dta=2", "`dta` is no dimension of a layout"),
        ("data=2,", "`` is no dimension of a layout"),
        ("data", "`data` needs a whole number from 1 up"),
        ("data=0", "`data=0` needs a whole number"),
        ("data=-2", "`data=-2` needs a whole number"),
        ("data=2.0", "`data=2.0` needs a whole number"),
        ("data=²", "`data=²` needs a whole number"),
        ("pipeline=2,schedule=gpipe", "schedule must be one of 1f1b, interleaved, zero_bubble"),
        ("pipeline=2,stages=2,schedule=1f1b", "stages above 1 go with schedule=interleaved"),
        ("pipeline=2,schedule=interleaved", "stages above 1 go with schedule=interleaved"),
        ("stages=2", "stages needs pipeline above 1"),
        ("data=2,schedule=zero_bubble", "schedule=zero_bubble needs pipeline above 1"),
        ("data=2,tensor=2,data=4", "`data` is there twice"),
        ("pipeline=2,schedule=1f1b,schedule=zero_bubble", "`schedule` is there twice"),
        ("data=4,expert=3", "expert=3 must divide data=4, whose ranks share the experts"),
        ("expert=2", "expert=2 must divide data=1"),
    ],
)
def test_what_is_no_layout_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--layout {text}: {message}")):
        Layout.parse(text)


@pytest.mark.parametrize(
    ("text", "room", "joined", "layout"),
    [
        ("auto", 1, None, Layout()),
        ("auto", 0, None, Layout()),
        ("auto", 2, None, Layout(data=2)),
        ("auto", 3, None, Layout(data=2)),
        ("auto", 4, None, Layout(data=4)),  # the smaller grid of the two
        ("auto", 8, None, Layout(data=4, tensor=2)),  # then tensor; context is 1 in one of them
        ("auto", 100, None, Layout(data=4, tensor=2)),
        ("auto", 1, 2, Layout(data=2)),  # a launcher has decided
        ("data=4", 1, None, Layout(data=4)),  # asked for, whatever the room
        ("data=2", 64, None, Layout(data=2)),
        ("data=2,tensor=2", 64, 4, Layout(data=2, tensor=2)),
        ("pipeline=3", 64, None, Layout(pipeline=3)),  # layers divide freely
    ],
)
def test_the_choice(text: str, room: int, joined: int | None, layout: Layout) -> None:
    assert Layout.choose(text, GRIDS, MODEL, room=room, joined=joined) == layout


@pytest.mark.parametrize(
    ("text", "joined", "message"),
    [
        ("data=4", 2, "--layout data=4 needs 4 ranks, but 2 were launched"),
        ("auto", 3, "--layout auto needs 2 ranks, but 3 were launched"),
        ("data=8", None, "data=8 must divide finetune.continued.grid.data = 4"),
        ("data=3", None, "data=3 must divide pretrain.grid.data = 8"),
        ("tensor=4", None, "tensor=4 must divide pretrain.grid.tensor = 2"),
        ("context=2", None, "context=2 must divide finetune.continued.grid.context"),
    ],
)
def test_what_does_not_fit_the_grid_is_refused(text: str, joined: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Layout.choose(text, GRIDS, MODEL, room=8, joined=joined)


@pytest.mark.parametrize(
    ("text", "model", "message"),
    [
        ("pipeline=3,stages=2", MODEL, "6 pipeline stages need a layer each, and the model has 4"),
        ("data=8,expert=8", MODEL, "expert=8 must divide the experts, and the model has 4 experts"),
        ("data=2,expert=2", ModelConfig(), "the model has no experts"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    text: str, model: ModelConfig, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Layout.choose(text, {"pretrain": Grid(data=8)}, model, room=8, joined=None)


def test_all_misfits_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        Layout.choose("data=16,tensor=4,pipeline=5", GRIDS, MODEL, room=8, joined=None)
    assert str(caught.value).count("must divide") == 4
    assert "5 pipeline stages" in str(caught.value)
