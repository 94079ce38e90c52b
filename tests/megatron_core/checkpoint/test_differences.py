"""A planted difference is found, named and measured."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from megatron_core.checkpoint import Difference, first_difference, save_checkpoint

TINY = float(np.finfo(np.float32).smallest_subnormal)


def save(path: Path, tensors: dict[str, Tensor], step: int = 3) -> Path:
    save_checkpoint(path, tensors, step=step, run="run", model={}, layout={"data": 1})
    return path


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"{kind}/{name}": torch.randn(4, 6, 3, generator=generator)
        for kind in ("weights", "first")
        for name in ("b", "a")
    }


def planted(
    name: str, index: tuple[int, ...], ours: float, theirs: float
) -> tuple[dict[str, Tensor], ...]:
    pair = tensors(), tensors()
    pair[0][name][index], pair[1][name][index] = ours, theirs
    return pair


def above(value: float, ulps: int = 1) -> float:
    number = np.float32(value)
    for _ in range(ulps):
        number = np.nextafter(number, np.float32(math.inf))
    return float(number)


@pytest.mark.parametrize(
    ("ours", "theirs", "ulps"),
    [
        (1.0, above(1.0), 1),
        (above(-0.1), -0.1, 1),
        (1.0, above(1.0, 5), 5),
        (-TINY, TINY, 2),
        (0.0, TINY, 1),
        (-TINY, 0.0, 1),
        (-0.0, 0.0, 0),  # other bits, the same number
        (2.0, 4.0, 2**23),
    ],
)  # fmt: skip
def test_one_changed_number_is_named_and_measured(
    ours: float, theirs: float, ulps: int, tmp_path: Path
) -> None:
    a, b = planted("weights/a", (2, 5, 1), ours, theirs)
    found = first_difference(save(tmp_path / "a", a), save(tmp_path / "b", b))
    here, there = (float(np.float32(x)) for x in (ours, theirs))
    assert found == Difference("weights/a", (2, 5, 1), here, there, ulps, elements=1, tensors=1)
    assert isinstance(found, Difference)
    assert math.copysign(1, found.ours) == math.copysign(1, ours)


def test_the_first_tensor_and_its_first_element_come_first(tmp_path: Path) -> None:
    a, b = tensors(), tensors()
    b["weights/b"] += 1
    b["first/b"][1, 2, 0] *= -1
    b["first/b"][1, 2, 2] *= -1
    b["first/b"][3] *= -1
    found = first_difference(save(tmp_path / "a", a), save(tmp_path / "b", b))
    assert isinstance(found, Difference)
    assert (found.tensor, found.index) == ("first/b", (1, 2, 0))
    assert (found.elements, found.tensors) == (2 + 18, 2)
    assert found.ours == -found.theirs == float(a["first/b"][1, 2, 0])


def test_equal_checkpoints_have_none(tmp_path: Path) -> None:
    a = save(tmp_path / "a", tensors())
    assert first_difference(a, save(tmp_path / "b", tensors())) is None
    said = first_difference(a, save(tmp_path / "c", tensors(), step=4))
    assert said == "steps 3 and 4 hold the same tensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights/c": torch.zeros(1)}, "they hold different tensors: weights/c/0"),
        (
            {"weights/b": torch.zeros(6, 4, 3)},
            "weights/b is torch.float32 [4, 6, 3] here, torch.float32 [6, 4, 3] there",
        ),
        (
            {"first/a": torch.zeros(4, 6, 3, dtype=torch.bfloat16)},
            "first/a is torch.float32 [4, 6, 3] here, torch.bfloat16 [4, 6, 3] there",
        ),
    ],
)
def test_what_cannot_be_compared_is_said(
    change: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    a, b = save(tmp_path / "a", tensors()), save(tmp_path / "b", {**tensors(), **change})
    assert first_difference(a, b) == message
