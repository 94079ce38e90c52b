"""Load checkpoints, whole or in parts, however they were cut when they were written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from megatron_core.checkpoint.description import Checkpoint, read_checkpoint
from megatron_core.checkpoint.digests import OwnedDigests
from megatron_core.checkpoint.parts import Part, Placement, check_part, split_key
from megatron_core.checkpoint.storage import VerifiedFolder
from megatron_core.errors import IntegrityError

_WEIGHTS = "weights"


class CheckpointReader:
    """Reads tensors of the checkpoint at ``path``, and hashes each file once before its first use.

    Args:
        path: Folder of the checkpoint.
        verify: False for a checkpoint whose files were hashed before.

    Raises:
        IntegrityError: the checkpoint is damaged, by name; also from every method.
    """

    def __init__(self, path: Path, *, verify: bool = True) -> None:
        self.path = path
        self.checkpoint = read_checkpoint(path)
        self._verify = verify
        self._folders: dict[str, VerifiedFolder] = {}

    def fill(self, parts: Sequence[Part], placements: Mapping[str, Placement]) -> None:
        """Fill the ``data`` of ``parts`` in place; ``placements`` are of their tensors.

        Raises:
            IntegrityError: a tensor is not there, or lies otherwise on the grid.
        """
        missing = {part.key for part in parts} - self.checkpoint.leaves.keys()
        if missing:
            raise IntegrityError(
                f"{self.path} has no tensor {', '.join(sorted(missing)[:5])}: it is of another "
                "model or grid"
            )
        for part in parts:
            stored, wanted = self.checkpoint.tensors[part.tensor], placements.get(part.tensor)
            if wanted is not None and stored != wanted:
                raise IntegrityError(
                    f"{self.path} has {part.tensor} as {stored}, not as {wanted}: it is of "
                    "another model or grid"
                )
            check_part(part, placements)
        for kind in sorted({part.kind for part in parts}):
            if kind not in self._folders:
                self._folders[kind] = VerifiedFolder(
                    self.path, self.checkpoint, kind, verify=self._verify
                )
            self._folders[kind].read([part for part in parts if part.kind == kind])

    def shard(self, key: str) -> Tensor:
        """The grid shard that leaf ``key`` names, in its shape, fp32 on the CPU."""
        kind, name, number = split_key(key)
        placement = self._placement(f"{kind}/{name}")
        data = torch.empty(placement.shard_elements)
        self.fill([Part(kind, name, number, 0, data)], self.checkpoint.tensors)
        return data.view(placement.shard_shape)

    def tensor(self, name: str) -> Tensor:
        """The whole tensor ``kind/name``, its grid shards put together, fp32 on the CPU."""
        placement = self._placement(name)
        if placement.axis is None:
            return self.shard(f"{name}/0")
        whole = torch.empty(placement.shape)
        for number, piece in enumerate(whole.chunk(placement.shards, dim=placement.axis)):
            piece.copy_(self.shard(f"{name}/{number}"))
        return whole

    def _placement(self, name: str) -> Placement:
        placement = self.checkpoint.tensors.get(name.partition("/")[2])
        if placement is None or f"{name}/0" not in self.checkpoint.leaves:
            raise IntegrityError(f"{self.path} has no tensor {name}: it is of another model")
        return placement


def load_parts(
    path: Path, parts: Sequence[Part], placements: Mapping[str, Placement], *, verify: bool = True
) -> Checkpoint:
    """Fill the ``data`` of ``parts`` in place; each rank reads what it needs.

    Args:
        path: Folder of the checkpoint.
        parts: Where the elements go, on any device, however the grid's shards were cut at blocks
            when they were written.
        placements: Of the tensors that ``parts`` name, as they are in the checkpoint.
        verify: Hash each file before it is read. False for a checkpoint that
            :func:`last_checkpoint` gave, which has done so.

    Raises:
        IntegrityError: the checkpoint is damaged, lacks a tensor, or has it in another shape.
    """
    reader = CheckpointReader(path, verify=verify)
    reader.fill(parts, placements)
    return reader.checkpoint


class StoredWeights(Mapping[str, Tensor]):
    """A model's weights by name; each is read, whole and in fp32 on the CPU, when it is asked for.

    Tied weights are under their owner's name. Hashes each file once before its first use.
    """

    def __init__(self, path: Path) -> None:
        """Of the checkpoint at ``path``.

        Raises:
            IntegrityError: the checkpoint is damaged, by name; also when a weight is read.
        """
        self._reader = CheckpointReader(path)
        checkpoint = self._reader.checkpoint
        self._names = {n for n in checkpoint.tensors if f"{_WEIGHTS}/{n}/0" in checkpoint.leaves}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._reader.tensor(f"{_WEIGHTS}/{name}")

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)


def verify_checkpoint(path: Path) -> Checkpoint:
    """Hash every file and every tensor of the checkpoint at ``path``, one grid shard at a time.

    Raises:
        IntegrityError: what was recorded is not what is there.
    """
    checkpoint = read_checkpoint(path, verify=True)
    reader = CheckpointReader(path, verify=False)
    for key, leaf in checkpoint.leaves.items():
        kind, name, number = split_key(key)
        part = Part(kind, name, number, 0, reader.shard(key).flatten())
        if OwnedDigests.of([part], checkpoint.tensors).leaves.get(key) != leaf:
            raise IntegrityError(f"{path}: tensor {key} is not the one that was recorded")
    return checkpoint
