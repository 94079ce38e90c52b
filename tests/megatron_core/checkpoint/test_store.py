"""Checkpoints come back bit for bit, and damage is refused by name."""

from __future__ import annotations

import json
import re
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from megatron_core.checkpoint import (
    Checkpoint,
    find_checkpoints,
    last_checkpoint,
    load_tensors,
    load_weights,
    prune_checkpoints,
    read_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from megatron_core.errors import IntegrityError, ReforgeError
from tests.ranks import run_ranks

SHAPES = [(), (1,), (3, 5, 7), (33, 17), (2, 1, 2, 1, 2)]


def some_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Odd shapes, two dtypes, views into a larger buffer, and numbers that are no numbers."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for i, shape in enumerate(SHAPES):
        tensors[f"weights/t{i}.weight"] = torch.randn(shape, generator=generator)
        tensors[f"first/t{i}.weight"] = torch.randn(shape, generator=generator).bfloat16()
    buffer = torch.randn(100, generator=generator)
    tensors["second/view"] = buffer[13:37].view(4, 6)
    tensors["second/odd"] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-42])
    return tensors


def save(path: Path, tensors: dict[str, Tensor], step: int = 7) -> Checkpoint:
    return save_checkpoint(
        path, tensors, step=step, run="run", model={"kind": "none"}, layout={"data": 1}
    )


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A saved checkpoint."""
    save(tmp_path / "step-00000007", some_tensors())
    return tmp_path / "step-00000007"


def test_tensors_come_back_bit_for_bit(path: Path) -> None:
    expected = some_tensors()
    loaded = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    checkpoint = load_tensors(path, loaded)
    assert (checkpoint.step, checkpoint.run, checkpoint.layout) == (7, "run", {"data": 1})
    assert {name: raw(t) for name, t in loaded.items()} == {
        name: raw(t) for name, t in expected.items()
    }
    weights = load_weights(path)
    assert set(weights) == {f"t{i}.weight" for i in range(len(SHAPES))}
    assert all(torch.equal(t, expected[f"weights/{name}"]) for name, t in weights.items())
    assert verify_checkpoint(path) == read_checkpoint(path) == checkpoint


def test_views_of_a_flat_buffer_are_filled_in_place(path: Path) -> None:
    expected = some_tensors()["weights/t2.weight"]
    buffer = torch.zeros(200)
    load_tensors(path, {"weights/t2.weight": buffer[50:155].view(3, 5, 7)})
    assert torch.equal(buffer[50:155], expected.flatten())
    assert not buffer[:50].any()
    assert not buffer[155:].any()


def change_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("pattern", ["*.distcp", ".metadata"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_byte, "{file} was altered: delete {path}"),
        (cut, "{file} is missing or torn: delete {path}"),
        (Path.unlink, "{file} is missing or torn: delete {path}"),
    ],
    ids=["altered", "torn", "missing"],
)
@pytest.mark.parametrize("use", [read_checkpoint, verify_checkpoint, load_weights])
def test_a_damaged_file_is_refused_by_name(
    pattern: str, damage: Callable[[Path], None], message: str, use: Callable[[Path], object],
    path: Path,
) -> None:  # fmt: skip
    (file,) = path.glob(pattern)
    damage(file)
    with pytest.raises(IntegrityError, match=re.escape(message.format(file=file, path=path))):
        use(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: {**d, "step": 8},
        lambda d: {**d, "root": d["root"][::-1]},
        lambda d: {**d, "leaves": {**d["leaves"], "second/odd/0": "00"}},
        lambda d: {**d, "leaves": {k: v for k, v in d["leaves"].items() if k != "second/odd/0"}},
        lambda d: {**d, "more": 1},
        lambda d: {k: v for k, v in d.items() if k != "files"},
        lambda d: [],
    ],
    ids=["step", "root", "leaf", "fewer_leaves", "more", "less", "list"],
)
def test_an_altered_description_is_refused(change: Callable[[object], object], path: Path) -> None:
    description = path / "checkpoint.json"
    description.write_text(json.dumps(change(json.loads(description.read_text()))))
    with pytest.raises(IntegrityError, match=re.escape(f"{description} was ")):
        read_checkpoint(path)


def test_a_torn_or_missing_description_is_refused(path: Path) -> None:
    description = path / "checkpoint.json"
    cut(description)
    description.write_text(description.read_text()[:-20])
    with pytest.raises(IntegrityError, match="was torn or altered"):
        read_checkpoint(path)
    description.unlink()
    with pytest.raises(IntegrityError, match=r"not a checkpoint: it has no checkpoint\.json"):
        read_checkpoint(path)


def test_a_consistent_forgery_does_not_pass_the_verification(path: Path, tmp_path: Path) -> None:
    """Files of other tensors under the description's hashes of files, but not of its leaves."""
    other = some_tensors()
    other["second/view"] = other["second/view"] + 1
    save(tmp_path / "other", other)
    ours, theirs = (
        json.loads((p / "checkpoint.json").read_text()) for p in (path, tmp_path / "other")
    )
    for file in path.iterdir():
        file.unlink()
    for file in (tmp_path / "other").iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    (path / "checkpoint.json").write_text(json.dumps({**ours, "files": theirs["files"]}))
    read_checkpoint(path)
    with pytest.raises(IntegrityError, match="tensor second/view/0 is not the one"):
        verify_checkpoint(path)


def test_a_tensor_it_does_not_hold_is_named(path: Path) -> None:
    with pytest.raises(IntegrityError, match="has no tensor weights/new: it is of another model"):
        load_tensors(path, {"weights/new": torch.zeros(3)})


def test_the_root_is_of_tensors_and_step(tmp_path: Path) -> None:
    root = save(tmp_path / "a", some_tensors()).root
    assert save(tmp_path / "b", dict(reversed(some_tensors().items()))).root == root
    assert save(tmp_path / "c", some_tensors(), step=8).root != root
    (bits,) = struct.unpack("<i", struct.pack("<f", 1.0))
    for name, change in {
        "second/odd": torch.tensor([float("nan"), float("inf"), 0.0, 1e-42]),  # -0.0 before
        "weights/t0.weight": some_tensors()["weights/t0.weight"].view(1),  # shape
        "first/t1.weight": some_tensors()["first/t1.weight"].half(),  # dtype
        "weights/t1.weight": torch.tensor([bits], dtype=torch.int32),
    }.items():
        assert save(tmp_path / "d", {**some_tensors(), name: change}).root != root


def save_as_rank(folder: Path) -> None:
    """Save as one of the ranks that joined."""
    dist.init_process_group("gloo")
    checkpoint = save(folder / "step-00000007", some_tensors())
    (folder / f"root-{dist.get_rank()}").write_text(checkpoint.root)
    dist.destroy_process_group()


def test_the_root_does_not_depend_on_the_ranks_that_wrote_it(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    assert run_ranks(save_as_rank, 2, folder) == [0, 0]
    alone, together = read_checkpoint(path), verify_checkpoint(folder / "step-00000007")
    assert alone.files.keys() != together.files.keys()
    roots = {(folder / f"root-{rank}").read_text() for rank in range(2)}
    assert roots == {alone.root, together.root}


def test_a_half_written_folder_is_not_found(tmp_path: Path, path: Path) -> None:
    partial = tmp_path / ".step-00000009.partial"
    partial.mkdir()
    (partial / "__0_0.distcp").write_bytes(b"half")
    assert find_checkpoints(tmp_path) == [path]
    assert find_checkpoints(tmp_path / "nowhere") == []
    # The next save of that step does not mind what is left.
    save(tmp_path / "step-00000009", some_tensors(), step=9)
    assert not partial.exists()
    assert [p.name for p in find_checkpoints(tmp_path)] == ["step-00000007", "step-00000009"]


def test_a_kill_while_writing_leaves_the_folder_unnamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("megatron_core.checkpoint.store.sync_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "step-00000001", some_tensors())
    assert last_checkpoint(tmp_path) is None


def test_the_last_whole_checkpoint_is_taken(
    tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (8, 10):
        save(tmp_path / f"step-{step:08d}", some_tensors(step), step=step)
    assert last_checkpoint(tmp_path) == (
        tmp_path / "step-00000010", read_checkpoint(tmp_path / "step-00000010")
    )  # fmt: skip
    (payload,) = (tmp_path / "step-00000010").glob("*.distcp")
    change_byte(payload)
    (tmp_path / "step-00000008" / "checkpoint.json").unlink()
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == path
    assert str(payload) in caplog.text
    assert str(tmp_path / "step-00000008") in caplog.text


@pytest.mark.parametrize(
    ("keep", "kept"), [(1, [30]), (2, [20, 30]), (3, [9, 20, 30]), (9, [9, 20, 30])]
)
def test_the_newest_are_kept(keep: int, kept: list[int], tmp_path: Path) -> None:
    for step in (9, 20, 30):
        (tmp_path / f"step-{step:08d}").mkdir()
    prune_checkpoints(tmp_path, keep)
    assert [int(p.name[5:]) for p in find_checkpoints(tmp_path)] == kept


def test_a_disk_that_refuses_is_said_and_costs_no_earlier_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "step-00000001", some_tensors())
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, old[1]))
    try:
        with pytest.raises(ReforgeError, match="step-00000002 could not be written"):
            save(tmp_path / "step-00000002", {"weights/large": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step-00000001"]
