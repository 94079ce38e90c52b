"""Bars are for terminals; the work is the same without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from megatron_core.progress import progress_bar, track


def test_items_come_through_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([3, 1, 2], "counting")) == [3, 1, 2]
    assert list(track(iter("ab"), "reading", total=2)) == ["a", "b"]
    with progress_bar("loss {task.fields[loss]:.3f}") as bar:
        bar.update(bar.add_task("training", total=2, loss=1.0), advance=1, loss=0.5)
    assert capsys.readouterr() == ("", "")


def test_items_are_taken_one_by_one() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(3):
            taken.append(i)
            yield i

    assert next(iter(track(items(), "reading", total=3))) == 0
    assert taken == [0]
