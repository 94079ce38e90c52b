"""Turns go to and fro, and what warms up is not counted."""

from __future__ import annotations

import pytest

from benchmarks.turns import in_turns, paired


def test_steps_take_turns_to_and_fro() -> None:
    called: list[tuple[str, int]] = []
    steps = {name: lambda n, name=name: called.append((name, n)) for name in "abc"}
    times = in_turns(steps, 2, first=5)
    assert called == [(name, 5) for name in "abc"] + [(name, 6) for name in "cba"] + [
        (name, 7) for name in "abc"
    ]
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_each_has_its_own_seconds() -> None:
    lasts = {"quick": 1.0, "slow": 10.0}
    now = [0.0]

    def step(name: str, number: int) -> None:
        now[0] += lasts[name] * number

    steps = {name: lambda n, name=name: step(name, n) for name in lasts}
    times = in_turns(steps, 3, clock=lambda: now[0])
    assert times == {"quick": [2.0, 3.0, 4.0], "slow": [20.0, 30.0, 40.0]}


def test_ratios_are_of_neighbours() -> None:
    """A machine that slows down for all changes no ratio."""
    assert paired([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]) == 2.0
    assert paired([1.0, 9.0, 4.0], [1.0, 3.0, 2.0]) == 2.0
    with pytest.raises(ValueError, match="shorter"):
        paired([1.0, 2.0], [1.0])
