"""Where the time of traced steps went, of traces written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.regions import Region
from megatron_core.trainer.shares import (
    ATTENTION,
    BETWEEN,
    ELEMENTWISE,
    PRODUCTS,
    ROWS,
    step_shares,
)

MAIN, AUTOGRAD, STREAM = 1, 2, 7


def event(
    name: str, start: float, stop: float, thread: int = MAIN, cat: str = "cpu_op", **args: Any
) -> dict[str, Any]:
    return {
        "ph": "X", "cat": cat, "name": name, "tid": thread, "ts": 1e12 + start,
        "dur": stop - start, "args": args,
    }  # fmt: skip


def step(start: float, stop: float) -> dict[str, Any]:
    return event("step", start, stop, cat="user_annotation")


def told(events: list[dict[str, Any]]) -> dict[str, float]:
    """The rows that have any time, once all add up to the steps'."""
    shares = step_shares(events)
    assert list(shares) == list(ROWS)
    steps = [e for e in events if e["name"] == "step"]
    whole = steps[-1]["ts"] + steps[-1]["dur"] - steps[0]["ts"]
    assert sum(shares.values()) == pytest.approx(whole)
    return {row: pytest.approx(time, abs=1e-3) for row, time in shares.items() if abs(time) > 1e-3}


def test_an_operation_takes_what_it_spends_outside_those_it_calls() -> None:
    assert told([
        event("aten::mul", 0, 9),  # before the first step
        step(10, 110),
        event("aten::matmul", 20, 40), event("aten::view", 21, 22), event("aten::mm", 22, 38),
        event("aten::scaled_dot_product_attention", 40, 60), event("aten::bmm", 41, 50),
        event("aten::to", 60, 70), event("aten::copy_", 61, 69),
        event("gloo:all_reduce", 0, 200, thread=9, cat="user_annotation"),
        step(112, 120),
        event("aten::addmm_", 112, 120),
        {"ph": "M", "name": "process_name", "args": {}},
    ]) == {PRODUCTS: 20 + 8, ATTENTION: 20, ELEMENTWISE: 8, BETWEEN: 110 - 28 - 20 - 8}  # fmt: skip


def test_a_region_has_all_that_is_in_it_but_exchanges() -> None:
    marked = {"cat": "user_annotation"}
    assert told([
        step(0, 100),
        event(Region.OPTIMIZER, 0, 30, **marked), event("aten::mul_", 5, 10),
        event(Region.EXCHANGE, 10, 25, **marked), event("c10d::broadcast_", 11, 12),
        event(Region.RECORDS, 30, 60, **marked), event("aten::mm", 30, 50),
        event(Region.HEAD, 50, 55, **marked), event("aten::mm", 51, 54),
        event(Region.INPUT, 60, 64, **marked),
    ]) == {
        Region.OPTIMIZER: 15, Region.EXCHANGE: 15, Region.RECORDS: 30, Region.INPUT: 4, BETWEEN: 36
    }  # fmt: skip


def test_what_the_head_computes_backward_is_the_heads() -> None:
    """On the main thread of a CPU, where its operations are known by their numbers."""
    forward = {"Sequence number": 41, "Fwd thread id": 0}
    assert told([
        step(0, 100),
        event("_Columns", 0, 8, **{"Sequence number": 40, "Fwd thread id": 0}),
        event(Region.HEAD, 10, 30, cat="user_annotation"),
        event("_Columns", 12, 28, **forward), event("aten::mm", 13, 27),
        event("_ColumnsBackward", 40, 60, **{"Sequence number": 41, "Fwd thread id": 1}),
        event("aten::mm", 41, 59),
        event("_ColumnsBackward", 60, 80, **{"Sequence number": 40, "Fwd thread id": 1}),
        event("aten::mm", 61, 79),
    ]) == {Region.HEAD: 20 + 20, PRODUCTS: 18, BETWEEN: 100 - 58}  # fmt: skip


def kernel(start: float, stop: float, by: int, name: str = "k", cat: str = "kernel") -> Any:
    return event(name, start, stop, thread=STREAM, cat=cat, **{"External id": by})


def test_of_a_gpu_kernels_count_and_exchanges_only_where_nothing_else_runs() -> None:
    assert told([
        step(0, 100),
        event("aten::mm", 0, 2, **{"External id": 1}),
        event("autograd::engine::evaluate_function: X", 3, 5, thread=AUTOGRAD),
        event("aten::mul", 3, 4, thread=AUTOGRAD, **{"External id": 2}),
        event(Region.EXCHANGE, 6, 8, cat="user_annotation"),
        event("c10d::allreduce_", 6, 7, **{"External id": 3}),
        kernel(-5, -1, 1),  # of the step before
        kernel(10, 30, 1), kernel(40, 50, 2), kernel(45, 80, 3, "ncclDevKernel"),
        kernel(60, 70, 1), kernel(95, 105, 9, "Memcpy", "gpu_memcpy"),
    ]) == {PRODUCTS: 30, ELEMENTWISE: 10 + 5, Region.EXCHANGE: 20, BETWEEN: 100 - 65}  # fmt: skip


def test_a_trace_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="no step"):
        step_shares([event("aten::mm", 0, 1)])


NAMES = ["aten::mm", "aten::mul", "aten::view", "MulBackward0", *Region]
KINDS = {"aten::mm": PRODUCTS, "aten::mul": ELEMENTWISE, Region.EXCHANGE: Region.EXCHANGE}


@given(st.recursive(st.just(()), lambda inner: st.lists(
    st.tuples(st.sampled_from([n for n in NAMES if n != "step"]), inner), max_size=4,
)))  # fmt: skip
def test_any_nest_adds_up(tree: Any) -> None:
    """Each event spends one microsecond before, between and after those in it."""
    events, times, clock = [], dict.fromkeys(ROWS, 0.0), 0

    def grow(name: str, inner: Any, around: str) -> None:
        nonlocal clock
        kind = around
        if name == Region.EXCHANGE:
            kind = Region.EXCHANGE
        elif around == BETWEEN and name in ROWS:
            kind = name
        elif around in (BETWEEN, ELEMENTWISE):
            kind = KINDS.get(name, BETWEEN)
        begin = clock
        for child in inner:
            clock += 1
            times[kind] += 1
            grow(*child, kind)
        clock += 1
        times[kind] += 1
        events.append(event(name, begin, clock, cat="user_annotation"))

    grow("step", tree, BETWEEN)
    assert step_shares(events) == pytest.approx(times, abs=1e-2)
