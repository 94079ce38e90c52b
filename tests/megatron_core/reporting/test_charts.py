"""Scales, ticks and paths."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.reporting.charts import line_chart, nice_ticks, share, thin


@given(
    st.floats(-1e6, 1e6, allow_subnormal=False),
    st.floats(1e-4, 1e6, allow_subnormal=False),
    st.integers(2, 8),
)
def test_ticks_enclose_the_values_in_even_steps(low: float, span: float, most: int) -> None:
    ticks = nice_ticks(low, low + span, most)
    step = ticks[1] - ticks[0]
    slack = step * 1e-5
    assert ticks[0] <= low + slack and ticks[-1] >= low + span - slack
    assert len(ticks) <= most + 3
    assert all(b - a == pytest.approx(step, rel=1e-3) for a, b in itertools.pairwise(ticks))
    assert f"{step:.0e}"[0] in "125"


def test_a_constant_has_an_axis() -> None:
    ticks = nice_ticks(3.0, 3.0, 5)
    assert ticks[0] <= 3.0 <= ticks[-1] and len(ticks) >= 2


@pytest.mark.parametrize("length", [1, 7, 400, 401, 1234])
def test_thinning_keeps_the_mean_and_the_order(length: int) -> None:
    points = [(float(x), float(x * x % 17)) for x in range(length)]
    thinned = thin(points, most=400)
    assert len(thinned) <= 400
    assert [x for x, _ in thinned] == sorted(x for x, _ in thinned)
    if length <= 400:
        assert thinned == points
    width = -(-length // len(thinned))
    assert thinned[0][1] == pytest.approx(sum(y for _, y in points[:width]) / width)


def test_a_line_runs_where_its_numbers_say() -> None:
    chart = line_chart(
        "Loss",
        "nats",
        [("training", "line", [(5, 1.0), (10, 3.0)]), ("held out", "dots", [(10, 2.0)])],
        from_zero=True,
    )
    top = max(float(tick.label) for tick in chart.y_ticks)
    numbers = [float(n) for n in re.findall(r"[\d.]+", chart.lines[0].path)]
    assert numbers == pytest.approx(
        [50, 100 * (top - 1) / top, 100, 100 * (top - 3) / top], abs=0.01
    )
    assert chart.lines[1].path.startswith("M100 ")
    assert chart.points == [[50, 5, 1.0, None], [100, 10, 3.0, 2.0]]
    for tick in chart.y_ticks:
        assert tick.at == pytest.approx(100 * (top - float(tick.label)) / top, abs=0.01)


def test_small_ticks_read_as_numbers() -> None:
    chart = line_chart("Rate", "", [("rate", "line", [(1, 0.0), (2, 0.0008)])], from_zero=True)
    assert [float(tick.label) for tick in chart.y_ticks] == [0, 2e-4, 4e-4, 6e-4, 8e-4]


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="Loss: nothing to draw"):
        line_chart("Loss", "nats", [("training", "line", [])])


def test_shares_stay_within_the_bar() -> None:
    assert [share(v, 4) for v in (-1, 0, 1, 5)] == [0, 0, 25, 100]
    assert share(1, 0) == 0
