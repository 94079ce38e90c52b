"""The time of a step of ours, by kind."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from benchmarks.breakdown import breakdown
from benchmarks.variants import build
from megatron_core.config import BatchSizes, ModelConfig, PretrainConfig
from megatron_core.regions import Region
from megatron_core.trainer.shares import ATTENTION, PRODUCTS, ROWS


def test_a_step_of_ours_is_told_apart() -> None:
    model = ModelConfig(
        vocabulary=96, positions=32, layers=2, hidden=32, heads=4, kv_heads=2, ffn=48
    )
    config = PretrainConfig(
        model=model, sequence_length=32, batch=BatchSizes(sequences=4, microbatch=2)
    )
    with ExitStack() as stack:
        step = build("Reforge", config, 3, stack)
        step(1)
        found = breakdown(step, range(2, 4))
    assert list(found) == list(ROWS)
    assert sum(found.values()) == pytest.approx(1.0)
    for row in (PRODUCTS, ATTENTION, Region.HEAD, Region.OPTIMIZER):
        assert found[row] > 0
