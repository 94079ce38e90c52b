"""Tensors come back bit for bit onto any cut, and damage is refused by name."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megatron_core.checkpoint import (
    CheckpointSaver,
    Part,
    Placement,
    StoredWeights,
    description,
    last_checkpoint,
    load_parts,
    read_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from megatron_core.errors import IntegrityError
from tests.megatron_core.checkpoint.cuts import (
    PLACEMENTS,
    begin,
    change_byte,
    cut,
    empty_state,
    same,
    some_state,
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of parts that were cut at random; not to be changed."""
    path = tmp_path_factory.mktemp("stored") / "step-00000007"
    saver = CheckpointSaver(None)
    begin(saver, path, cut(some_state(), 11, 1)[0])
    saver.wait()
    return path


@pytest.fixture
def path(stored: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return shutil.copytree(stored, tmp_path / stored.name)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), ranks=st.integers(1, 6))
def test_every_cut_loads_the_same_bits(stored: Path, seed: int, ranks: int) -> None:
    loaded = empty_state()
    for parts in cut(loaded, seed, ranks):
        assert load_parts(stored, parts, PLACEMENTS) == read_checkpoint(stored)
    assert same(loaded, some_state())


def test_only_the_parts_are_filled(stored: Path) -> None:
    state, buffer = some_state(), torch.zeros(100_000)
    part = Part("first", "embedding.weight", 0, 16_384, buffer[5_000:21_384])
    load_parts(stored, [part], PLACEMENTS)
    expected = state["first", "embedding.weight", 0][16_384:32_768]
    assert torch.equal(buffer[5_000:21_384], expected)
    assert int(buffer.count_nonzero()) == int(expected.count_nonzero())


def whole(kind: str, name: str) -> Tensor:
    """A whole tensor from its shards."""
    placement = PLACEMENTS[name]
    shards = [
        some_state()[kind, name, shard].view(placement.shard_shape)
        for shard in range(placement.shards)
    ]
    return torch.cat(shards, dim=placement.axis) if placement.axis is not None else shards[0]


def test_weights_are_put_together(stored: Path) -> None:
    weights = StoredWeights(stored)
    assert list(weights) == sorted(PLACEMENTS)
    for name, tensor in weights.items():
        assert tensor.shape == PLACEMENTS[name].shape
        assert torch.equal(tensor, whole("weights", name))
    assert "new" not in weights
    with pytest.raises(KeyError, match="new"):
        weights["new"]


def test_weights_are_read_when_they_are_asked_for(stored: Path) -> None:
    weights = StoredWeights(stored)
    assert weights["scale"] is not weights["scale"]


def test_whole_tensors_are_saved_as_they_are(tmp_path: Path) -> None:
    tensors = {"weights/a": torch.randn(5, 3).T, "first/a": torch.randn(3, 5)}
    checkpoint = save_checkpoint(
        tmp_path / "c", tensors, step=3, run="run", model={}, layout={"data": 1}
    )
    assert checkpoint.leaves.keys() == {"weights/a/0", "first/a/0"}
    assert torch.equal(StoredWeights(tmp_path / "c")["a"], tensors["weights/a"])
    assert verify_checkpoint(tmp_path / "c") == checkpoint


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def all_weights(path: Path) -> None:
    dict(StoredWeights(path))


def load_all(path: Path) -> None:
    load_parts(path, cut(empty_state(), 1, 1)[0], PLACEMENTS)


@pytest.mark.parametrize("name", ["weights/__0_0.distcp", "weights/.metadata"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_byte, "{file} was altered: delete {path}"),
        (cut_short, "{file} is missing or torn: delete {path}"),
        (Path.unlink, "{file} is missing or torn: delete {path}"),
    ],
    ids=["altered", "torn", "missing"],
)
@pytest.mark.parametrize("use", [verify_checkpoint, all_weights, load_all])
def test_a_damaged_file_is_refused_by_name(
    name: str, damage: Callable[[Path], None], message: str, use: Callable[[Path], object],
    path: Path,
) -> None:  # fmt: skip
    damage(path / name)
    wanted = message.format(file=path / name, path=path)
    with pytest.raises(IntegrityError, match=f"^{re.escape(wanted)}"):
        use(path)


def test_only_what_is_read_is_hashed_and_that_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: Counter[str] = Counter()
    real = description.hash_file

    def counted(file: Path) -> str:
        hashed[file.relative_to(path).as_posix()] += 1
        return real(file)

    monkeypatch.setattr(description, "hash_file", counted)
    weights = {"weights/.metadata", "weights/__0_0.distcp"}
    everything = {name.replace("weights", kind) for name in weights for kind in some_kinds()}
    read_checkpoint(path)
    assert not hashed
    all_weights(path)
    assert hashed == Counter(weights)
    hashed.clear()
    load_all(path)
    assert hashed == Counter(everything)
    hashed.clear()
    # The trainer's way: the search hashes, the load does not again, but for what is unpickled.
    assert last_checkpoint(path.parent) is not None
    assert hashed == Counter(everything)
    hashed.clear()
    load_parts(path, cut(empty_state(), 1, 1)[0], PLACEMENTS, verify=False)
    assert hashed == Counter(name for name in everything if name.endswith(".metadata"))
    change_byte(path / "weights/.metadata")
    with pytest.raises(IntegrityError, match="was altered"):
        load_parts(path, cut(empty_state(), 1, 1)[0], PLACEMENTS, verify=False)


def some_kinds() -> set[str]:
    return {kind for kind, _, _ in some_state()}


@pytest.mark.parametrize(
    ("part", "placement", "message"),
    [
        ("new", Placement(shape=(3,)), "has no tensor weights/new/0: it is of another model"),
        ("norm.weight", Placement(shape=(6, 8)), r"as \[48\], not as \[6, 8\]"),
        ("norm.weight", Placement(shape=(48,), axis=0, shards=2), "not as .* in 2 shards along 0"),
        ("norm.weight", Placement(shape=(49,)), r"as \[48\], not as \[49\]"),
    ],
)
def test_another_model_or_grid_is_refused(
    part: str, placement: Placement, message: str, stored: Path
) -> None:
    data = torch.zeros(placement.shard_elements)
    with pytest.raises(IntegrityError, match=message):
        load_parts(stored, [Part("weights", part, 0, 0, data)], {part: placement})
    assert not data.any()


def test_a_part_without_placement_is_refused(stored: Path) -> None:
    with pytest.raises(IntegrityError, match=r"norm\.weight/0 has no placement"):
        load_parts(stored, [Part("weights", "norm.weight", 0, 0, torch.zeros(48))], {})
