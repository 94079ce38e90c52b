"""What tests of tasks share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for the tests, in a fraction of the time."""
    monkeypatch.setattr("megatron_core.evaluation.intervals.RESAMPLES", 20)
