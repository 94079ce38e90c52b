"""What a training says of cores that it leaves idle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_core.config import load_recipe
from stages import run
from tests.trainable import write_trainable


@pytest.mark.parametrize(
    ("cores", "threads", "layout", "said"),
    [
        (4, 1, "auto", None),
        (2, 1, "auto", None),
        (8, 2, "data=4", None),
        (2, 1, "data=1", "2 cores, 1 thread in each of 1 rank: --layout data=2 takes more of them"),
        (8, 1, "data=2", "8 cores, 1 thread in each of 2 ranks: --layout data=4 takes more"),
        (16, 2, "auto", "16 cores, 2 threads in each of 4 ranks: a pipeline takes more of them"),
        (3, 2, "auto", "3 cores, 2 threads in each of 1 rank: a pipeline takes more of them"),
    ],
)
def test_idle_cores_are_told_with_what_would_use_them(
    cores: int, threads: int, layout: str, said: str | None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    told: list[str] = []

    def info(text: str, *values: Any) -> None:
        told.append(text % values)

    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(run, "_processors", lambda: cores)
    monkeypatch.setattr(run.logger, "info", info)
    write_trainable(tmp_path)
    recipe = load_recipe(tmp_path / "params.yaml", [f"pretrain.threads={threads}"])
    run._choose_layout(layout, "pretrain", recipe)
    idle = [line for line in told if " cores, " in line]
    assert len(idle) == (said is not None)
    assert said is None or idle[0].startswith(said)
