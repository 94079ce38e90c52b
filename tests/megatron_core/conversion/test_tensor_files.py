"""Safetensors files, against the library's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from megatron_core.conversion.tensor_files import INDEX, WEIGHTS, TensorFiles, write_tensor_files
from megatron_core.errors import IntegrityError, ReforgeError


def tensors(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"wide.weight": (3, 5), "narrow": (7,), "é": (2, 3, 2), "none": (0, 4), "one": ()}
    return {n: torch.randn(shape, generator=generator).to(dtype) for n, shape in shapes.items()}


def write(folder: Path, given: dict[str, Tensor], limit: int = 1 << 30) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    dtype = next(iter(given.values())).dtype
    write_tensor_files(folder, shapes, given.__getitem__, dtype, limit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_the_library_reads_what_we_write_and_we_what_it_writes(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    given = tensors(dtype)
    write(tmp_path, given)
    theirs = load_file(tmp_path / WEIGHTS)
    assert set(theirs) == set(given)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in given.items())
    save_file(given, tmp_path / WEIGHTS)
    ours = TensorFiles.open(tmp_path)
    assert set(ours) == set(given)
    for name, tensor in given.items():
        assert torch.equal(ours[name], tensor)
        assert ours.stored[name].dtype == tensor.dtype
    assert ours.size == sum(tensor.nbytes for tensor in given.values())


def test_shards_hold_no_more_than_the_limit_or_one_tensor(tmp_path: Path) -> None:
    given = tensors()
    write(tmp_path, given, limit=80)
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert names == [f"model-{n:05}-of-00002.safetensors" for n in (1, 2)]
    assert list(load_file(tmp_path / names[0])) == ["wide.weight"]
    ours = TensorFiles.open(tmp_path)
    assert all(torch.equal(ours[name], tensor) for name, tensor in given.items())


def test_a_tensor_that_is_not_as_announced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReforgeError, match=r"a is torch\.float32 \[3\], not as planned"):
        write_tensor_files(tmp_path, {"a": (4,)}, lambda _: torch.ones(3), torch.float32, 100)


def test_truncated_files_are_refused_whatever_is_missing(tmp_path: Path) -> None:
    write(tmp_path, tensors())
    content = (tmp_path / WEIGHTS).read_bytes()
    for size in (0, 5, 9, 60, len(content) - 1):
        (tmp_path / WEIGHTS).write_bytes(content[:size])
        with pytest.raises(IntegrityError, match=r"model\.safetensors is (truncated|damaged)"):
            TensorFiles.open(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(content + b"\0")
    with pytest.raises(IntegrityError, match="truncated or damaged"):
        TensorFiles.open(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"shape": [1]},
        [],
    ],
)
def test_headers_that_lie_are_refused(entry: object, tmp_path: Path) -> None:
    header = json.dumps({"a": entry}).encode()
    content = len(header).to_bytes(8, "little") + header + b"\0" * 12
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(IntegrityError, match="damaged"):
        TensorFiles.open(tmp_path)


def test_shards_that_do_not_fit_their_index_are_named(tmp_path: Path) -> None:
    write(tmp_path, tensors(), limit=80)
    index = json.loads((tmp_path / INDEX).read_text())
    second = tmp_path / "model-00002-of-00002.safetensors"
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(IntegrityError, match="lacks model-00002-of-00002"):
        TensorFiles.open(tmp_path)
    second.write_bytes(content)
    places = dict(index["weight_map"], ghost=second.name)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
    with pytest.raises(IntegrityError, match="lacks ghost"):
        TensorFiles.open(tmp_path)
    del places["ghost"], places["narrow"]
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
    with pytest.raises(IntegrityError, match="has narrow, which the index has not"):
        TensorFiles.open(tmp_path)
    places["narrow"] = "../elsewhere.safetensors"
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
    with pytest.raises(IntegrityError, match="is no file of the folder"):
        TensorFiles.open(tmp_path)
