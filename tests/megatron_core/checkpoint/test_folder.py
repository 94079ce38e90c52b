"""Checkpoints of a run are found, kept and passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megatron_core.checkpoint import (
    checkpoint_path,
    find_checkpoints,
    last_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from tests.megatron_core.checkpoint.cuts import change_byte


def save(folder: Path, step: int) -> Path:
    path = checkpoint_path(folder, step)
    save_checkpoint(
        path, {"weights/x": torch.full((9,), float(step))}, step=step, run="r", model={}, layout={}
    )
    return path


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (100_000_000, 99_999_999, 9):
        checkpoint_path(tmp_path, step).mkdir()
    for other in (".step-00000011.partial", "step-last", "steps"):
        (tmp_path / other).mkdir()
    (tmp_path / "step-00000012").write_text("no folder")
    assert [int(p.name[5:]) for p in find_checkpoints(tmp_path)] == [9, 99_999_999, 100_000_000]
    assert find_checkpoints(tmp_path / "nowhere") == []
    assert last_checkpoint(tmp_path / "nowhere") is None


def test_the_last_whole_checkpoint_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [save(tmp_path, step) for step in (7, 8, 10)]
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert (found[0], found[1].step) == (paths[2], 10)
    payload = paths[2] / "weights/__0_0.distcp"
    change_byte(payload)
    (paths[1] / "checkpoint.json").unlink()
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == paths[0]
    assert f"passing over a damaged checkpoint: {payload} was altered" in caplog.text
    assert str(paths[1]) in caplog.text


@pytest.mark.parametrize(
    ("last", "every", "kept"),
    [
        (1, None, [60]),
        (2, None, [50, 60]),
        (9, None, [9, 20, 30, 40, 50, 60]),
        (1, 20, [20, 40, 60]),
        (2, 30, [30, 50, 60]),
        (1, 1000, [60]),
        (1, 1, [9, 20, 30, 40, 50, 60]),
    ],
)
def test_what_is_kept(last: int, every: int | None, kept: list[int], tmp_path: Path) -> None:
    for step in (9, 20, 30, 40, 50, 60):
        checkpoint_path(tmp_path, step).mkdir()
    prune_checkpoints(tmp_path, last, every)
    assert sorted(int(p.name[5:]) for p in tmp_path.iterdir()) == kept


def test_what_a_killed_process_left_goes_too(tmp_path: Path) -> None:
    for name in (".step-00000003.partial", ".step-00000001.old", ".step-00000002.77.old", ".other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("x")
    prune_checkpoints(tmp_path, 1)
    assert [p.name for p in tmp_path.iterdir()] == [".other"]
