"""The most that a step holds is seen, whatever is freed again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from benchmarks.memory import peak_bytes

MEGABYTE = 2**20


def held(kept: int, passing: int) -> int:
    """Of a step that holds ``passing`` megabytes for a while, beside ``kept`` for good."""

    def make() -> Callable[[int], None]:
        always = torch.ones(kept * MEGABYTE // 4)

        def step(number: int) -> None:
            size = passing if number == 2 else 4 * passing  # the first one does not count
            assert float(torch.ones(size * MEGABYTE // 4).sum() + always[0]) > 0

        return step

    return peak_bytes(make)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone tells")
def test_the_peak_is_that_of_the_second_step() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        found = alone.submit(held, 64, 128).result() / MEGABYTE
    assert 192 <= found < 230
