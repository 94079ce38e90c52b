"""A planted difference is found, named and measured."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from megatron_core.checkpoint import (
    CheckpointSaver,
    Difference,
    Part,
    Placement,
    StoredWeights,
    first_difference,
    save_checkpoint,
)
from megatron_core.errors import IntegrityError
from tests.megatron_core.checkpoint.cuts import PLACEMENTS, change_byte, save_alone, some_state

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
    where = (2, 5, 1)
    assert found == Difference(
        "weights/a", 0, where, where, here, there, ulps, elements=1, tensors=1
    )
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


@pytest.mark.parametrize(
    ("name", "places", "shard", "element", "index"),
    [
        # rows 48 to 95 are shard 1; column 70 lies in shard 1 of four of 64 columns
        ("layers.0.attention.query.weight", [(1, 2, 699), (1, 40, 3)], 1, (2, 699), (50, 699)),
        ("layers.0.attention.output.weight", [(3, 0, 0), (1, 299, 6)], 1, (299, 6), (299, 70)),
        ("embedding.weight", [(0, 128, 256)], 0, (128, 256), (128, 256)),
    ],
)
def test_the_grid_shard_and_both_places_are_named(
    name: str, places: list[tuple[int, int, int]], shard: int, element: tuple[int, ...],
    index: tuple[int, ...], tmp_path: Path,
) -> None:  # fmt: skip
    ours, theirs = some_state(), some_state()
    for number, row, column in places:
        data = theirs["weights", name, number].view(PLACEMENTS[name].shard_shape)
        data[row, column] = above(float(data[row, column]), 3)
    save_alone(tmp_path / "a", ours)
    save_alone(tmp_path / "b", theirs)
    found = first_difference(tmp_path / "a", tmp_path / "b")
    assert isinstance(found, Difference)
    assert (found.tensor, found.shard) == (f"weights/{name}", shard)
    assert (found.element, found.index) == (element, index)
    assert (found.ulps, found.elements, found.tensors) == (3, len(places), 1)
    assert StoredWeights(tmp_path / "a")[name][index] == found.ours
    assert StoredWeights(tmp_path / "b")[name][index] == found.theirs


def test_shards_are_ordered_as_numbers(tmp_path: Path) -> None:
    for name, changed in (("a", ()), ("b", (2, 10))):
        data = torch.arange(16.0)
        data[list(changed)] += 1
        saver = CheckpointSaver(None)
        saver.save(
            tmp_path / name, [Part("weights", "x", i, 0, data[i : i + 1]) for i in range(16)],
            {"x": Placement(shape=(16,), axis=0, shards=16)},
            step=1, run="r", model={}, layout={},
        )  # fmt: skip
        saver.wait()
    found = first_difference(tmp_path / "a", tmp_path / "b")
    assert isinstance(found, Difference)
    assert (found.shard, found.index, found.elements) == (2, (2,), 2)


def test_a_damaged_checkpoint_is_not_compared(tmp_path: Path) -> None:
    a, b = planted("weights/a", (0, 0, 0), 1.0, 2.0)
    save(tmp_path / "a", a)
    change_byte(save(tmp_path / "b", b) / "weights/__0_0.distcp")
    with pytest.raises(IntegrityError, match="was altered"):
        first_difference(tmp_path / "a", tmp_path / "b")


def test_equal_checkpoints_have_none(tmp_path: Path) -> None:
    a = save(tmp_path / "a", tensors())
    assert first_difference(a, save(tmp_path / "b", tensors())) is None
    said = first_difference(a, save(tmp_path / "c", tensors(), step=4))
    assert said == "steps 3 and 4 hold the same tensors"
    save_checkpoint(
        tmp_path / "d", tensors(), step=3, run="run", model={}, layout={}, scalars={"scale": 2.0}
    )
    said = first_difference(a, tmp_path / "d")
    assert said == "they hold the same tensors, but scale is None here, 2.0 there"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights/c": torch.zeros(1)}, "they hold different tensors: weights/c"),
        ({"second/a": torch.zeros(4, 6, 3)}, "they hold different tensors: second/a"),
        (
            {f"{kind}/b": torch.zeros(6, 4, 3) for kind in ("weights", "first")},
            "b is [4, 6, 3] here, [6, 4, 3] there",
        ),
    ],
)
def test_what_cannot_be_compared_is_said(
    change: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    a, b = save(tmp_path / "a", tensors()), save(tmp_path / "b", {**tensors(), **change})
    assert first_difference(a, b) == message
