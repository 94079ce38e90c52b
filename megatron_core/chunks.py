"""Tensors in and out of ``torch.distributed.checkpoint``, a chunk in memory at a time.

The library's own writer keeps every tensor of a file until the file is done. This one asks for a
chunk when its turn comes and lets it go once it is written.
"""

from __future__ import annotations

import io
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import (
    FileSystemReader,
    FileSystemWriter,
    _StorageInfo,
)
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from megatron_core.errors import IntegrityError

METADATA = ".metadata"
_FILE = "__0_0.distcp"


@dataclass(frozen=True)
class Chunk:
    """A box of elements of one tensor.

    Attributes:
        tensor: Name of the tensor.
        shape: Of the whole tensor.
        offsets: First element of the box along each dimension.
        sizes: Of the box along each dimension.
        dtype: Of the tensor.
    """

    tensor: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    dtype: torch.dtype

    @property
    def box(self) -> ChunkStorageMetadata:
        """Its place in the library."""
        return ChunkStorageMetadata(torch.Size(self.offsets), torch.Size(self.sizes))


def write_chunks(
    folder: Path,
    chunks: Sequence[Chunk],
    read: Callable[[Chunk], Tensor],
    objects: Mapping[str, bytes] | None = None,
) -> None:
    """Write ``chunks``, in their order, and ``objects`` to ``folder``; one process.

    ``read`` gives each chunk, of its sizes and dtype, on the CPU; what it raises is raised.
    """
    planner = ChunkPlanner(chunks, read, objects)
    try:
        with quiet():
            save({}, storage_writer=_Writer(folder), planner=planner, no_dist=True)
    except CheckpointException as error:
        raise _cause(error) from error


def read_chunks(reader: ChunkReader, results: Sequence[tuple[Chunk, Tensor]]) -> None:
    """Fill the tensors of ``results`` in place, wherever the stored chunks begin and end.

    What goes wrong in ``reader`` is raised as it is.
    """
    try:
        with quiet():
            load({}, storage_reader=reader, planner=_LoadPlanner(results), no_dist=True)
    except CheckpointException as error:
        raise _cause(error) from error


class StoredChunks:
    """What a folder of ``torch.distributed.checkpoint`` holds.

    Its metadata is a pickle: of what is in it nothing but the library's own descriptions is built.
    """

    def __init__(self, folder: Path) -> None:
        """Read the metadata.

        Raises:
            IntegrityError: they are missing, damaged or hold something else.
        """
        self.folder = folder
        self._reader = ChunkReader(folder)
        self._metadata = self._reader.read_metadata()
        self.shapes = {
            name: tuple(entry.size)
            for name, entry in self._metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }

    def dtype(self, tensor: str) -> torch.dtype:
        """The stored dtype of ``tensor``."""
        return self._entry(tensor).properties.dtype

    def read(self, tensor: str, offsets: Sequence[int], sizes: Sequence[int]) -> Tensor:
        """A box of ``tensor``, wherever its stored chunks begin and end.

        Raises:
            IntegrityError: a file is missing or damaged.
        """
        entry = self._entry(tensor)
        chunk = Chunk(tensor, tuple(entry.size), tuple(offsets), tuple(sizes), self.dtype(tensor))
        result = torch.empty(tuple(sizes), dtype=chunk.dtype)
        try:
            read_chunks(self._reader, [(chunk, result)])
        except Exception as error:  # damaged bytes make the library raise anything
            raise IntegrityError(f"{tensor} in {self.folder} cannot be read: {error}") from error
        return result

    def _entry(self, tensor: str) -> TensorStorageMetadata:
        return cast(TensorStorageMetadata, self._metadata.state_dict_metadata[tensor])


class ChunkPlanner(DefaultSavePlanner):
    """Plans to write chunks, each of which is read when its turn comes, and objects by name."""

    def __init__(
        self,
        chunks: Sequence[Chunk],
        read: Callable[[Chunk], Tensor],
        objects: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._chunks = {(chunk.tensor, chunk.offsets): chunk for chunk in chunks}
        self._read, self._objects = read, objects or {}

    def create_local_plan(self) -> SavePlan:
        tensors = [
            WriteItem(
                index=MetadataIndex(chunk.tensor, torch.Size(chunk.offsets)),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=chunk.box,
                    properties=TensorProperties(dtype=chunk.dtype),
                    size=torch.Size(chunk.shape),
                ),
            )
            for chunk in self._chunks.values()
        ]
        others = [
            WriteItem(index=MetadataIndex(name), type=WriteItemType.BYTE_IO)
            for name in self._objects
        ]
        self.plan = SavePlan(tensors + others)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        index = write_item.index
        if write_item.type == WriteItemType.BYTE_IO:
            return io.BytesIO(self._objects[index.fqn])
        return self._read(self._chunks[_place(index)])


class _Writer(FileSystemWriter):
    """One file, a chunk after the other, and bytes that tell of no run."""

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()  # the library's has a random number and the path

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        written = []
        with (Path(self.path) / _FILE).open("wb") as file:
            for item in plan.items:
                start, data = file.tell(), planner.resolve_data(item)
                if isinstance(data, io.BytesIO):
                    file.write(data.getbuffer())
                else:
                    # Of a view the whole storage would be written.
                    own = data.untyped_storage().nbytes() == data.nbytes
                    torch.save(data if own and data.is_contiguous() else data.clone(), file)
                length = file.tell() - start
                place = _StorageInfo(_FILE, start, length)
                written.append(WriteResult(item.index, length, place))
            file.flush()
            os.fsync(file.fileno())
        future: Future[list[WriteResult]] = Future()
        future.set_result(written)
        return future


class _LoadPlanner(DefaultLoadPlanner):
    """Plans to fill each box from the stored chunks that overlap it."""

    def __init__(self, results: Sequence[tuple[Chunk, Tensor]]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._chunks = [chunk for chunk, _ in results]
        self._results = {(chunk.tensor, chunk.offsets): result for chunk, result in results}

    def create_local_plan(self) -> LoadPlan:
        items = []
        for chunk in self._chunks:
            stored = cast(Metadata, self.metadata).state_dict_metadata[chunk.tensor]
            items += create_read_items_for_chunk_list(
                chunk.tensor, cast(TensorStorageMetadata, stored), [chunk.box]
            )
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self._results[_place(index)]


class ChunkReader(FileSystemReader):
    """Reads the metadata once, and without running what a pickle may ask for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._metadata: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._metadata is None:
            path = Path(self.path) / METADATA
            try:
                with path.open("rb") as file:
                    metadata = _Unpickler(file).load()
            except FileNotFoundError as error:
                raise IntegrityError(
                    f"{path} does not exist: name a checkpoint's folder"
                ) from error
            except Exception as error:  # damaged bytes make an unpickler raise anything
                raise IntegrityError(f"{path} cannot be read: {error}") from error
            if not isinstance(metadata, Metadata):
                raise IntegrityError(f"{path} describes no distributed checkpoint")
            if getattr(metadata, "storage_meta", None) is None:
                metadata.storage_meta = StorageMeta()
            self._metadata = metadata
        return self._metadata


class _Unpickler(pickle.Unpickler):
    """Builds the descriptions of ``torch.distributed.checkpoint`` and plain values alone."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _BUILT:  # exact: a dotted name could reach into what a module imports
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not what a checkpoint is described with")


_BUILT = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex",
            "StorageMeta", "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
        )
    ),
    *(
        ("torch.distributed.checkpoint.planner", name)
        for name in (
            "BytesIOWriteData", "SavePlan", "TensorWriteData", "WriteItem", "WriteItemType",
        )
    ),
    ("pathlib", "PosixPath"),
    ("pathlib", "Path"),
    ("collections", "OrderedDict"),
    *(
        ("torch", str(dtype).removeprefix("torch."))
        for dtype in (
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
            torch.int16, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn,
            torch.float8_e5m2,
        )
    ),
}  # fmt: skip


def _place(index: MetadataIndex) -> tuple[str, tuple[int, ...]]:
    """Tensor and offsets of the chunk that ``index`` stands for."""
    return index.fqn, tuple(cast(torch.Size, index.offset))


def _cause(error: CheckpointException) -> BaseException:
    """What went wrong on the one rank that there is."""
    return next(iter(error.failures.values()))[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the library's notice that it runs in a single process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
