"""Grid shards in and out of ``torch.distributed.checkpoint``.

Each grid shard is one flat tensor there, named like its leaf; its chunks are the parts that the
ranks own. The library plans, writes and reads chunks, and reshards when they are cut otherwise.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
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

from megatron_core.checkpoint.description import Checkpoint, check_file
from megatron_core.checkpoint.parts import Part, Placement
from megatron_core.checkpoint.ranks import blame
from megatron_core.errors import IntegrityError, ReforgeError

METADATA = ".metadata"


def write_parts(
    folder: Path,
    parts: Sequence[Part],
    placements: Mapping[str, Placement],
    group: dist.ProcessGroup | None,
) -> None:
    """Write ``parts`` of all ranks of ``group`` to ``folder``; called on each of them.

    Args:
        folder: Where the files go; made if it is not there.
        parts: This rank's parts, on the CPU.
        placements: Of their tensors.
        group: A gloo group of the ranks; None for one process.

    Raises:
        ReforgeError: on every rank, when one of them could not write; it says why.
    """
    try:
        with _quiet(group is None):
            save(
                {},
                storage_writer=_Writer(folder, per_thread_copy_ahead=0),
                planner=_SavePlanner(parts, placements),
                process_group=group,
                no_dist=group is None,
            )
    except CheckpointException as error:
        reasons = {rank: failure[0] for rank, failure in error.failures.items()}
        ranks = 1 if group is None else dist.get_world_size(group)
        raise ReforgeError(blame(reasons, ranks)) from error


class VerifiedFolder:
    """Reads the parts of one kind, each file only after its hash was found right.

    Args:
        path: Folder of the checkpoint.
        checkpoint: Its description.
        kind: The kind to read, which is a folder of its own.
        verify: False when the hashes were checked before.

    Raises:
        IntegrityError: the metadata were altered.
    """

    def __init__(self, path: Path, checkpoint: Checkpoint, kind: str, *, verify: bool) -> None:
        self._reader = _Reader(path, checkpoint, kind, verify)
        self._reader.read_metadata()

    def read(self, parts: Sequence[Part]) -> None:
        """Fill the ``data`` of ``parts`` in place; the checkpoint must hold their shards.

        Raises:
            IntegrityError: a file is damaged, by name.
        """
        try:
            with _quiet(True):
                load({}, storage_reader=self._reader, planner=_LoadPlanner(parts), no_dist=True)
        except CheckpointException as error:
            cause = next(iter(error.failures.values()))[0]
            if isinstance(cause, ReforgeError):
                raise cause from None
            raise IntegrityError(f"{self._reader.path} cannot be read: {cause}") from error


class _Writer(FileSystemWriter):
    """Says why the system refused, which torch's archives hide behind an error of their own."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


class _SavePlanner(DefaultSavePlanner):
    """Plans to write each part as a chunk of its shard."""

    def __init__(self, parts: Sequence[Part], placements: Mapping[str, Placement]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._parts = {(part.key, part.offset): part for part in parts}
        self._placements = placements

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan(
            [
                WriteItem(
                    index=MetadataIndex(part.key, torch.Size([part.offset])),
                    type=WriteItemType.SHARD,
                    tensor_data=TensorWriteData(
                        chunk=_chunk(part),
                        properties=TensorProperties(dtype=part.data.dtype),
                        size=torch.Size([self._placements[part.tensor].shard_elements]),
                    ),
                )
                for part in self._parts.values()
            ]
        )
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self._parts[_place(index)].data


class _LoadPlanner(DefaultLoadPlanner):
    """Plans to read each part from the chunks that overlap it."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._parts = {(part.key, part.offset): part for part in parts}

    def create_local_plan(self) -> LoadPlan:
        chunks: dict[str, list[ChunkStorageMetadata]] = {}
        for part in self._parts.values():
            chunks.setdefault(part.key, []).append(_chunk(part))
        items = []
        for key, wanted in chunks.items():
            stored = cast(Metadata, self.metadata).state_dict_metadata[key]
            items += create_read_items_for_chunk_list(
                key, cast(TensorStorageMetadata, stored), wanted
            )
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self._parts[_place(index)].data


class _Reader(FileSystemReader):
    """Hashes each file once, before its first use; the metadata, a pickle, in any case."""

    def __init__(self, path: Path, checkpoint: Checkpoint, kind: str, verify: bool) -> None:
        super().__init__(path / kind)
        self._folder, self._checkpoint, self._kind = path, checkpoint, kind
        self._verified = set() if verify else set(checkpoint.files) - {f"{kind}/{METADATA}"}
        self._metadata: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._metadata is None:
            self._check(METADATA)
            self._metadata = super().read_metadata()
        return self._metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for name in sorted({self.storage_data[i.storage_index].relative_path for i in plan.items}):
            self._check(name)
        return super().read_data(plan, planner)

    def _check(self, name: str) -> None:
        file = f"{self._kind}/{name}"
        if file not in self._verified:
            check_file(self._folder, self._checkpoint, file)
            self._verified.add(file)


def _place(index: MetadataIndex) -> tuple[str, int]:
    """The shard, and the first element of the part in it, that ``index`` stands for."""
    return index.fqn, cast(torch.Size, index.offset)[0]


def _chunk(part: Part) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size([part.offset]), torch.Size([part.data.numel()]))


@contextmanager
def _quiet(alone: bool) -> Any:
    """Silence the library's notice that it runs in a single process, where it does."""
    if not alone:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
