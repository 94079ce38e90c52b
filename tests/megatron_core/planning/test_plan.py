"""A whole plan: what is refused, what fits, what the tables and the JSON say."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from megatron_core.config import Grid
from megatron_core.config.presets import model_names, read_model
from megatron_core.errors import ConfigError
from megatron_core.parallel.layout import Layout
from megatron_core.planning.hardware import Hardware
from megatron_core.planning.job import Job, problems
from megatron_core.planning.plan import Plan, make_plan
from megatron_core.planning.presets import preset_names, read_preset
from megatron_core.planning.software import Software
from megatron_core.planning.tables import plan_tables, verdict

REFORGE = read_preset(Software, "software", "reforge")


def job(layout: str, model: str = "llama3-8b", **changes: object) -> Job:
    a = read_model(model)
    one = Job(a, Layout.parse(layout), 4096, 64)
    return replace(one, **changes)  # type: ignore[arg-type]


def plan(layout: str, hardware: str = "h100", **changes: object) -> Plan:
    return make_plan(job(layout, **changes), read_preset(Hardware, "hardware", hardware), REFORGE)


def test_all_problems_are_named_at_once() -> None:
    wrong = job("data=6,tensor=16,pipeline=40,expert=3", sequence=10_000)
    with pytest.raises(ConfigError) as caught:
        make_plan(wrong, read_preset(Hardware, "hardware", "h100"), REFORGE)
    message = str(caught.value)
    assert message.startswith("the layout data=6,tensor=16,pipeline=40,expert=3 has 6 problems:")
    for part in (
        "pipeline × stages = 40 × 1 = 40 must not exceed the 32 layers",
        "data=6 must be a power of two",
        "a batch of 64 sequences must be a multiple of data × microbatch = 6 × 1",
        "a sequence of 10000 tokens exceeds the model's 8192 positions",
        "tensor=16 must divide kv_heads = 8",
        "expert=3 needs a model with experts",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("one", "problem"),
    [
        (job("data=4", grid=Grid(data=2)), "data=4 must divide grid.data = 2"),
        (job("tensor=2", grid=Grid(tensor=1)), "tensor=2 must divide grid.tensor = 1"),
        (job("context=4", sequence=4098), "a sequence of 4098 tokens must be a multiple of"),
        (job("data=8,expert=8", "mixtral-8x7b", grid=Grid(data=8)), None),
        (job("data=16,expert=16", "mixtral-8x7b"), "expert=16 must divide the 8 experts"),
        (replace(job("data=4"), layout=Layout(data=4, expert=8)), "expert=8 must divide data=4"),
        (job("data=1", grid=Grid(data=64)), None),
        (job("data=1", grid=Grid(data=32), microbatch=4), "multiple of data × microbatch = 32 × 4"),
    ],
)
def test_problems(one: Job, problem: str | None) -> None:
    found = problems(one)
    assert not found if problem is None else any(problem in each for each in found)


def test_too_little_memory_is_said_plainly() -> None:
    small = plan("data=8")
    assert not small.fits
    assert "it does NOT fit" in verdict(small)
    assert "no recompute choice would either" in verdict(plan("data=1"))
    large = plan("data=8,tensor=8")
    assert large.fits
    assert verdict(large).startswith("it fits: ")
    hungry = plan("pipeline=8", microbatch=4)
    assert not hungry.fits
    assert verdict(hungry).endswith("recompute full would")


def test_the_json_is_plain_and_adds_up() -> None:
    made = json.loads(json.dumps(plan("data=4,tensor=4,pipeline=2").as_json()))
    assert made["ranks"] == 32
    assert made["job"]["layout"]["tensor"] == 4
    assert made["parameters"] == made["active_parameters"] == 8_030_261_248
    needed = made["memory"]["none"]
    most = max(
        needed["gradients"] + needed["activations"] + needed["workspace"], needed["exchange"]
    )
    assert needed["total"] == pytest.approx(needed["weights"] + needed["optimizer"] + most)
    seconds = made["seconds"]
    parts = [*seconds["work"].values(), seconds["bubble"], seconds["data"], seconds["optimizer"]]
    assert seconds["total"] == pytest.approx(sum(parts))
    tokens = 64 * 4096
    assert made["tokens_per_second"] == pytest.approx(tokens / seconds["total"])
    assert made["flops_per_second_per_rank"] * 32 * seconds["total"] == pytest.approx(
        tokens * made["flops_per_token"]["step"]
    )
    assert {t["dimension"] for t in made["transfers"]} == {"data", "tensor", "pipeline"}


def test_the_tables_show_every_part() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    for table in plan_tables(plan("data=4,tensor=4,pipeline=2"), "h100"):
        console.print(table)
    text = console.export_text()
    for part in ("8,030,261,248", "gradient sums", "pipeline bubble", "partial sums", "selective"):
        assert part in text


@pytest.mark.parametrize("name", model_names())
def test_every_model_has_a_plan(name: str) -> None:
    model = read_model(name)
    tensor = math.gcd(8, model.heads, model.kv_heads, model.vocabulary)
    one = job(f"data=8,tensor={tensor}", name, sequence=min(2048, model.positions))
    made = make_plan(one, read_preset(Hardware, "hardware", "h200"), REFORGE)
    assert 0 < made.rate / made.peak < 0.8


@pytest.mark.parametrize("name", preset_names("hardware"))
def test_every_machine_says_where_its_numbers_are_from(name: str) -> None:
    machine = read_preset(Hardware, "hardware", name)
    assert len(machine.source) > 100
    assert machine.usable < machine.memory.gib * 2**30
