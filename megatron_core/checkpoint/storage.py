"""Grid shards in and out of ``torch.distributed.checkpoint``.

Each grid shard is one flat tensor there, named like its leaf; its chunks are the parts that the
ranks own. The library plans, writes and reads chunks, and reshards when they are cut otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from megatron_core.checkpoint.description import Checkpoint, check_file
from megatron_core.checkpoint.parts import Part, Placement
from megatron_core.checkpoint.ranks import blame
from megatron_core.chunks import METADATA, Chunk, ChunkPlanner, ChunkReader, quiet, read_chunks
from megatron_core.errors import IntegrityError, ReforgeError


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
    data = {_chunk(part, placements): part.data for part in parts}
    try:
        with quiet() if group is None else nullcontext():
            save(
                {},
                storage_writer=_Writer(folder, per_thread_copy_ahead=0),
                planner=ChunkPlanner(list(data), data.__getitem__),
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
        self._placements = checkpoint.tensors
        self._reader = _Reader(path, checkpoint, kind, verify)
        self._reader.read_metadata()

    def read(self, parts: Sequence[Part]) -> None:
        """Fill the ``data`` of ``parts`` in place; the checkpoint must hold their shards.

        Raises:
            IntegrityError: a file is damaged, by name.
        """
        wanted = [(_chunk(part, self._placements), part.data) for part in parts]
        try:
            read_chunks(self._reader, wanted)
        except ReforgeError:
            raise
        except Exception as error:  # damaged bytes make the library raise anything
            raise IntegrityError(f"{self._reader.path} cannot be read: {error}") from error


class _Writer(FileSystemWriter):
    """Says why the system refused, which torch's archives hide behind an error of their own."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


class _Reader(ChunkReader):
    """Hashes each file once, before its first use; the metadata in any case."""

    def __init__(self, path: Path, checkpoint: Checkpoint, kind: str, verify: bool) -> None:
        super().__init__(path / kind)
        self._folder, self._checkpoint, self._kind = path, checkpoint, kind
        self._verified = set() if verify else set(checkpoint.files) - {f"{kind}/{METADATA}"}

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        self._check(METADATA)
        return super().read_metadata()

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for name in sorted({self.storage_data[i.storage_index].relative_path for i in plan.items}):
            self._check(name)
        return super().read_data(plan, planner)

    def _check(self, name: str) -> None:
        file = f"{self._kind}/{name}"
        if file not in self._verified:
            check_file(self._folder, self._checkpoint, file)
            self._verified.add(file)


def _chunk(part: Part, placements: Mapping[str, Placement]) -> Chunk:
    elements = placements[part.tensor].shard_elements
    return Chunk(part.key, (elements,), (part.offset,), (part.data.numel(),), part.data.dtype)
