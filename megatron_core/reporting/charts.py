"""Geometry of the charts: scales, ticks and paths, which the templates draw as SVG.

Coordinates are per cent of the plot, from the top left, so a chart fits any width while its
labels keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_core.reporting.wording import scientific

Point = tuple[float, float]
MOST_POINTS = 400


@dataclass(frozen=True)
class Tick:
    """A label at ``at`` per cent of an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """One series: ``path`` is SVG's ``d``; ``kind`` is "line" or "dots" and names its style."""

    label: str
    kind: str
    path: str


@dataclass(frozen=True)
class LineChart:
    """Series over the optimizer step.

    Attributes:
        unit: Of the vertical axis, or what else to say of it.
        points: ``[x in per cent, step, value per series or None]`` for the tooltips.
    """

    title: str
    unit: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    points: list[list[float | None]]

    @property
    def labels(self) -> str:
        """Labels of the series, for the tooltips."""
        return "|".join(line.label for line in self.lines)


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """At most about ``most`` multiples of 1, 2 or 5 × 10^k that enclose ``low`` … ``high``."""
    span = high - low or abs(high) or 1.0
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most ``most`` points: each the mean of equally many neighbours."""
    width = math.ceil(len(points) / most) or 1
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def line_chart(
    title: str,
    unit: str,
    series: Sequence[tuple[str, str, Sequence[Point]]],
    *,
    from_zero: bool = False,
    ticks: int = 5,
) -> LineChart:
    """A chart of ``series``: (label, "line" or "dots", points); series without points are left out.

    Raises:
        ValueError: no series has points.
    """
    shown = [
        (label, kind, thin(points) if kind == "line" else list(points))
        for label, kind, points in series
        if points
    ]
    if not shown:
        raise ValueError(f"{title}: nothing to draw")
    values = [y for _, _, points in shown for _, y in points]
    y_ticks = nice_ticks(0.0 if from_zero else min(values), max(values), ticks)
    last = max(x for _, _, points in shown for x, _ in points)
    bottom, top = y_ticks[0], y_ticks[-1]

    def place(point: Point) -> Point:
        x, y = point
        return round(100 * x / last, 2), round(100 * (top - y) / (top - bottom), 2)

    return LineChart(
        title=title,
        unit=unit,
        lines=[
            Line(label, kind, (_dots if kind == "dots" else _path)([place(p) for p in points]))
            for label, kind, points in shown
        ],
        x_ticks=[Tick(round(100 * x / last, 2), f"{x:,.0f}") for x in _steps(last)],
        y_ticks=[Tick(place((0, y))[1], _tick_label(y, y_ticks)) for y in y_ticks],
        points=_points([points for _, _, points in shown], last),
    )


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _dots(points: Sequence[Point]) -> str:
    """Lines of no length: with round caps and a stroke that does not scale they are discs."""
    return "".join(f"M{x:g} {y:g}h0" for x, y in points)


def _steps(last: float) -> list[float]:
    return [x for x in nice_ticks(0, last, 5) if x <= last]


def _tick_label(value: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0]
    if step < 1e-3:
        return scientific(value) if value else "0"
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def _points(series: Sequence[Sequence[Point]], last: float) -> list[list[float | None]]:
    """The values of all series at the steps of the first, the rest where they have that step."""
    others = [dict(points) for points in series[1:]]
    steps = sorted({x for points in series for x, _ in points})
    first = dict(series[0])
    rows: list[list[float | None]] = []
    for x in steps:
        values = [one.get(x) for one in (first, *others)]
        rounded = [None if value is None else float(f"{value:.4g}") for value in values]
        rows.append([round(100 * x / last, 2), round(x), *rounded])
    return rows


@dataclass(frozen=True)
class Bar:
    """A bar with a value written beside it; ``low`` and ``high`` span an interval, in per cent.

    Attributes:
        kind: "model" or "baseline".
        best: Whether no other bar is better.
    """

    label: str
    shown: str
    width: float
    kind: str
    best: bool = False
    low: float | None = None
    high: float | None = None


def share(value: float, top: float) -> float:
    """``value`` in per cent of ``top``, within 0 … 100."""
    return round(100 * min(1.0, max(0.0, value / top)), 2) if top else 0.0
