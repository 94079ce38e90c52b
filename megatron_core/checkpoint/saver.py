"""Save checkpoints while training goes on."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from megatron_core.checkpoint.description import DESCRIPTION, Checkpoint, checkpoint_root
from megatron_core.checkpoint.digests import OwnedDigests, merge_digests
from megatron_core.checkpoint.folder import prune_checkpoints
from megatron_core.checkpoint.parts import Part, Placement, check_part
from megatron_core.checkpoint.ranks import Ranks
from megatron_core.checkpoint.snapshot import Snapshot
from megatron_core.checkpoint.storage import write_parts
from megatron_core.chunks import METADATA
from megatron_core.collectives.peers import peers
from megatron_core.errors import IntegrityError, PeerLostError, ReforgeError
from megatron_core.files import replace_folder, write_json
from megatron_core.identity import Environment, FileEntry, hash_file

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class _Save:
    """One checkpoint on its way to the disk."""

    path: Path
    parts: list[Part]
    placements: dict[str, Placement]
    description: dict[str, Any]
    keep_last: int | None
    keep_every: int | None

    @property
    def staging(self) -> Path:
        return self.path.with_name(f".{self.path.name}.partial")


@dataclass(frozen=True)
class _Written:
    """What one rank wrote."""

    digests: OwnedDigests
    files: dict[str, FileEntry]


class CheckpointSaver:
    """Saves the state of all ranks; only the copy of the state holds up the caller.

    The rest happens in a thread: every rank writes, syncs and hashes its own parts; the first
    combines the hashes, writes the description and gives the folder its name. It then exists
    whole. Host memory for one copy of the rank's state is kept between saves. As a context
    manager it waits for the last save at the end of the block, also after an error.

    Args:
        group: A gloo group of all ranks that nothing else uses; None for one process.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._ranks = Ranks(group)
        self._snapshot = Snapshot()
        self._pending: Future[Checkpoint] | None = None
        self._last: Checkpoint | None = None

    def save(
        self,
        path: Path,
        parts: Sequence[Part],
        placements: Mapping[str, Placement],
        *,
        step: int,
        run: str,
        model: Mapping[str, Any],
        layout: Mapping[str, int | str],
        scalars: Mapping[str, float] | None = None,
        keep_last: int | None = None,
        keep_every: int | None = None,
    ) -> None:
        """Begin to save to the folder ``path``; called on every rank.

        Waits for the save before it. ``parts`` may change as soon as this returns.

        Args:
            path: Folder to create, replaced if it exists.
            parts: What this rank owns; over all ranks every block of a shard once.
            placements: Of the tensors that ``parts`` name; those of others may be there too.
            step: Optimizer steps done.
            run: Identity of the run, checked before resuming.
            model: What is needed to build the model again.
            layout: Ranks it was written from, for the record.
            scalars: Other state, finite, the same on every rank, such as a loss scale.
            keep_last: Newest checkpoints that stay beside it; None keeps all.
            keep_every: Steps between checkpoints that stay in any case.

        Raises:
            ReforgeError: the save before it failed; nothing of this one was done.
        """
        self.wait()
        job = _Save(
            path=path,
            parts=self._snapshot.take(parts),
            placements=dict(placements),
            description={
                "step": step, "run": run, "model": dict(model), "layout": dict(layout),
                "scalars": dict(scalars or {}),
            },
            keep_last=keep_last,
            keep_every=keep_every,
        )  # fmt: skip
        pending = self._pending = Future[Checkpoint]()
        # A daemon: should a rank be gone, this one must be able to end.
        threading.Thread(
            target=_settle,
            args=(pending, partial(self._write, job)),
            name="checkpoint",
            daemon=True,
        ).start()

    def wait(self) -> Checkpoint | None:
        """The description of the last save, when it is on the disk; None before the first.

        Raises:
            ReforgeError: it failed, on whichever rank; the checkpoints before it are whole.
            IntegrityError: the parts of all ranks together are not the blocks of whole tensors.
        """
        if self._pending is not None:
            try:
                self._last = self._pending.result()
            finally:
                if self._pending.done():
                    self._pending = None
        return self._last

    def __enter__(self) -> CheckpointSaver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let the last save end before the ranks part; beside another error its own is logged."""
        try:
            self.wait()
        except ReforgeError as error:
            if kind is None:
                raise
            logger.error("%s", error)

    def _write(self, job: _Save) -> Checkpoint:
        """Everything after the copy; on all ranks it succeeds or raises alike."""
        try:
            kinds = self._ranks.together(partial(self._prepare, job), _union)
            for kind in kinds:
                parts = [part for part in job.parts if part.kind == kind]
                with peers():
                    write_parts(job.staging / kind, parts, job.placements, self._ranks.group)
            checkpoint = self._ranks.together(
                partial(self._describe, job, kinds), partial(self._finish, job)
            )
        except PeerLostError:
            raise
        except IntegrityError as error:
            raise IntegrityError(f"the checkpoint {job.path} was not written: {error}") from error
        except ReforgeError as error:
            raise ReforgeError(
                f"the checkpoint {job.path} could not be written ({error}): free the disk or make "
                "it writable; those before it are whole, and the next run resumes there"
            ) from error
        finally:
            if self._ranks.is_first:
                shutil.rmtree(job.staging, ignore_errors=True)
        return checkpoint

    def _prepare(self, job: _Save) -> set[str]:
        """Check the parts and make an empty folder; the kinds that this rank owns some of."""
        for part in job.parts:
            check_part(part, job.placements)
        if self._ranks.is_first:
            shutil.rmtree(job.staging, ignore_errors=True)
            job.staging.mkdir(parents=True)
        return {part.kind for part in job.parts}

    def _describe(self, job: _Save, kinds: Sequence[str]) -> _Written:
        """Hash this rank's parts and the files it wrote."""
        names = [
            file.relative_to(job.staging).as_posix()
            for kind in kinds
            for file in (job.staging / kind).glob(f"__{self._ranks.rank}_*")
        ]
        if self._ranks.is_first:
            names += [f"{kind}/{METADATA}" for kind in kinds]
        files = {
            name: FileEntry(
                size=(job.staging / name).stat().st_size, sha256=hash_file(job.staging / name)
            )
            for name in names
        }
        return _Written(OwnedDigests.of(job.parts, job.placements), files)

    def _finish(self, job: _Save, written: list[_Written]) -> Checkpoint:
        """On the first rank: describe the whole, give the folder its name, prune the older."""
        leaves, tensors = merge_digests([rank.digests for rank in written])
        files = dict(
            sorted((name, entry) for rank in written for name, entry in rank.files.items())
        )
        for name in files:
            if not (job.staging / name).is_file():
                raise IntegrityError(
                    f"{name} is not in the folder of the first rank: train in a folder that all "
                    "machines share"
                )
        description = job.description
        checkpoint = Checkpoint(
            root=checkpoint_root(leaves, description["step"], description["scalars"]),
            leaves=leaves,
            tensors=tensors,
            files=files,
            environment=Environment.current(),
            **description,
        ).sealed()
        write_json(job.staging / DESCRIPTION, checkpoint.model_dump(mode="json"))
        for folder in (*job.staging.glob("*/"), job.staging):
            _sync_entries(folder)
        replace_folder(job.staging, job.path)
        _sync_entries(job.path.parent)
        if job.keep_last is not None:
            try:
                prune_checkpoints(job.path.parent, job.keep_last, job.keep_every)
            except OSError as error:
                logger.warning("could not delete an old checkpoint: %s", error)
        return checkpoint


def _settle(future: Future[T], work: Callable[[], T]) -> None:
    """Let ``future`` have the result of ``work``, or what it raised."""
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


def _union(sets: list[set[str]]) -> list[str]:
    return sorted(set().union(*sets))


def _sync_entries(folder: Path) -> None:
    """Flush the entries of one directory to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
