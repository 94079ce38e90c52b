"""The folder of a run's checkpoints: naming, finding, keeping."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from megatron_core.checkpoint.store import Checkpoint, read_checkpoint
from megatron_core.errors import IntegrityError

logger = logging.getLogger(__name__)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimizer steps lies."""
    return folder / f"step-{step:08d}"


def find_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first; those half-written have no such name."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def last_checkpoint(folder: Path) -> tuple[Path, Checkpoint] | None:
    """The newest checkpoint that is whole; damaged ones are named in the log and passed over."""
    for path in reversed(find_checkpoints(folder)):
        try:
            return path, read_checkpoint(path)
        except IntegrityError as error:
            logger.warning("passing over a damaged checkpoint: %s", error)
    return None


def prune_checkpoints(folder: Path, keep_last: int) -> None:
    """Delete all but the newest ``keep_last`` checkpoints."""
    for path in find_checkpoints(folder)[:-keep_last]:
        shutil.rmtree(path)
