"""The folder of a run's checkpoints: naming, finding, keeping."""

from __future__ import annotations

import logging
import shutil
from functools import partial
from operator import itemgetter
from pathlib import Path

import torch.distributed as dist

from megatron_core.checkpoint.description import Checkpoint, check_file, read_checkpoint
from megatron_core.checkpoint.ranks import Ranks
from megatron_core.errors import IntegrityError

logger = logging.getLogger(__name__)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimizer steps lies."""
    return folder / f"step-{step:08d}"


def find_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first; those half-written have no such name."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir() and _step(p) >= 0), key=_step)


def last_checkpoint(
    folder: Path, group: dist.ProcessGroup | None = None
) -> tuple[Path, Checkpoint] | None:
    """The newest checkpoint that is whole; damaged ones are named in the log and passed over.

    Every file of it was hashed, so it can be loaded with ``verify=False``.

    Args:
        folder: Folder of the run's checkpoints.
        group: Ranks that ask together: they share the hashing and agree on the answer. None when
            this process is alone.
    """
    ranks = Ranks(group)
    found = ranks.together(partial(find_checkpoints, folder), itemgetter(0))
    for path in reversed(found):
        try:
            return path, ranks.together(partial(_verify_share, path, ranks), itemgetter(0))
        except IntegrityError as error:
            if ranks.is_first:
                logger.warning("passing over a damaged checkpoint: %s", error)
    return None


def prune_checkpoints(folder: Path, keep_last: int, keep_every: int | None = None) -> None:
    """Delete all but the newest ``keep_last`` checkpoints and those of every ``keep_every`` steps.

    What a killed process left half-written, or half-deleted, goes too.
    """
    for path in find_checkpoints(folder)[:-keep_last]:
        if keep_every is None or _step(path) % keep_every:
            # Renamed first, so that nothing under the name of a checkpoint is ever incomplete.
            path.rename(path.with_name(f".{path.name}.old"))
    for left in (*folder.glob(".step-*.old"), *folder.glob(".step-*.partial")):
        shutil.rmtree(left)


def _step(path: Path) -> int:
    """The step that a checkpoint's folder is named after; -1 for other names."""
    number = path.name.removeprefix("step-")
    return int(number) if number.isdecimal() else -1


def _verify_share(path: Path, ranks: Ranks) -> Checkpoint:
    """Hash this rank's share of the files of the checkpoint at ``path``."""
    checkpoint = read_checkpoint(path)
    for name in list(checkpoint.files)[ranks.rank :: ranks.count]:
        check_file(path, checkpoint, name)
    return checkpoint
