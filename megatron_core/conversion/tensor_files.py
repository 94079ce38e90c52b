"""Safetensors files, read and written one tensor at a time.

A file is its header's length (u64, little-endian), the header (JSON: of each tensor dtype, shape
and place) and the tensors' bytes. The library wants all tensors of a file at once to write it, and
maps the file to read it; here a tensor is in memory only while it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from megatron_core.errors import IntegrityError, ReforgeError
from megatron_core.files import write_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # as in the library
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        file: Path of its file.
        dtype: As it is stored.
        shape: Of the tensor.
        start: First byte in the file.
    """

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.numel * self.dtype.itemsize

    def read(self) -> Tensor:
        """The tensor, in memory of its own.

        Raises:
            IntegrityError: the file cannot be read, or is shorter than its header said.
        """
        tensor = torch.empty(self.shape, dtype=self.dtype)
        try:
            with self.file.open("rb", buffering=0) as file:
                file.seek(self.start)
                view = raw_bytes(tensor)
                while view:
                    count = file.readinto(view)  # the system may give less than was asked for
                    if not count:
                        raise IntegrityError(f"{self.file} is truncated: copy it again")
                    view = view[count:]
        except OSError as error:
            raise IntegrityError(f"{self.file} cannot be read: {error.strerror}") from error
        return tensor


class TensorFiles(Mapping[str, Tensor]):
    """Tensors that lie in files, each read when it is asked for."""

    def __init__(self, stored: Mapping[str, StoredTensor]) -> None:
        self.stored = dict(stored)

    @classmethod
    def open(cls, folder: Path) -> TensorFiles:
        """Read the headers of ``model.safetensors``, or of the shards that its index names.

        Raises:
            ReforgeError: there are no such files.
            IntegrityError: one of them is missing, truncated or damaged, by name.
        """
        stored: dict[str, StoredTensor] = {}
        for file, names in _files(folder).items():
            header = _read_header(file)
            if names is not None and (absent := names - header.keys()):
                raise IntegrityError(f"{file} lacks {_some(absent)}, which the index has there")
            if names is not None and (extra := header.keys() - names):
                raise IntegrityError(f"{file} has {_some(extra)}, which the index has not there")
            stored |= header
        return cls(stored)

    def __getitem__(self, name: str) -> Tensor:
        return self.stored[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size for tensor in self.stored.values())


def write_tensor_files(
    folder: Path,
    tensors: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    dtype: torch.dtype,
    shard_bytes: int,
) -> None:
    """Write ``tensors`` in their order; with an index when they are more than one file.

    Args:
        folder: Where the files go.
        tensors: Shapes by name.
        read: Gives a tensor; asked once for each, in order.
        dtype: Of all of them.
        shard_bytes: A file holds no more than this, or one tensor.

    Raises:
        ReforgeError: a tensor is not as it was announced.
    """
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in tensors.items()}
    shards = _shards(sizes, shard_bytes)
    names = [WEIGHTS]
    if len(shards) > 1:
        names = [
            f"model-{number:05}-of-{len(shards):05}.safetensors"
            for number in range(1, len(shards) + 1)
        ]
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, {tensor: tensors[tensor] for tensor in shard}, read, dtype)
    if len(shards) > 1:
        places = {
            tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard
        }
        total = {
            "total_parameters": sum(math.prod(shape) for shape in tensors.values()),
            "total_size": sum(sizes.values()),
        }
        write_json(folder / INDEX, {"metadata": total, "weight_map": places})


def raw_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU, for reading and writing."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def _write_file(
    path: Path,
    tensors: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    dtype: torch.dtype,
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in tensors.items():
        end = start + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors.items():
            tensor = read(name)
            if tuple(tensor.shape) != shape or tensor.dtype != dtype:
                raise ReforgeError(f"{name} is {tensor.dtype} {list(tensor.shape)}, not as planned")
            file.write(raw_bytes(tensor.contiguous()))


def _shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if shards[-1] and held + size > limit:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


def _files(folder: Path) -> dict[Path, set[str] | None]:
    """The files to read, with the tensors that the index has in each."""
    index = folder / INDEX
    if not index.exists():
        if (folder / WEIGHTS).exists():
            return {folder / WEIGHTS: None}
        if any(found for pattern in _PICKLES for found in folder.glob(pattern)):
            raise ReforgeError(
                f"{folder} holds its weights as Python pickles, which can run any program when "
                "they are read: get its safetensors files, or save it anew with "
                "`save_pretrained` where you trust it"
            )
        raise ReforgeError(f"{folder} has neither {WEIGHTS} nor {INDEX}: name a model's folder")
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files: dict[Path, set[str] | None] = {}
        for tensor, name in sorted(places.items()):
            if Path(name).name != name:
                raise ValueError(f"{name} is no file of the folder")
            names = files.setdefault(folder / name, set())
            cast(set[str], names).add(tensor)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise IntegrityError(f"{index} cannot be read: {error}") from error
    if missing := [file.name for file in files if not file.is_file()]:
        raise IntegrityError(
            f"{folder} lacks {_some(missing)}, which its index names: copy it again"
        )
    return files


def _read_header(path: Path) -> dict[str, StoredTensor]:
    """What ``path`` holds, checked against its size.

    Raises:
        IntegrityError: it is truncated or damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise IntegrityError(
                    f"{path} is truncated or no safetensors file: {size} bytes, of which its "
                    f"header would take {length}"
                )
            header = json.loads(file.read(length))
        tensors = {
            name: _stored(path, 8 + length, entry)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{path} is damaged: its header cannot be read ({error})") from error
    end = max((tensor.start + tensor.size for tensor in tensors.values()), default=8 + length)
    if end != size:
        raise IntegrityError(
            f"{path} is truncated or damaged: its header tells of {end} bytes, it has {size}"
        )
    return tensors


def _stored(path: Path, base: int, entry: Mapping[str, Any]) -> StoredTensor:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"tensors of type {entry['dtype']} cannot be read")
    begin, end = entry["data_offsets"]
    shape = tuple(int(n) for n in entry["shape"])
    tensor = StoredTensor(path, _DTYPES[entry["dtype"]], shape, base + begin)
    if begin < 0 or min(shape, default=0) < 0 or end - begin != tensor.size:
        raise ValueError(f"bytes {begin} to {end} are no {entry['dtype']} {list(shape)}")
    return tensor


def _some(names: Sequence[str] | set[str]) -> str:
    shown = sorted(names)
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return ", ".join(shown[:5]) + more
