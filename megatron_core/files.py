"""Files that exist whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from megatron_core.errors import ReforgeError


def write_text(path: Path, text: str) -> None:
    """Write ``text`` beside ``path``, sync it and move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Flush every file and directory entry below ``folder`` to the disk."""
    for path in [*folder.rglob("*"), folder, folder.parent]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace_folder(source: Path, target: Path) -> None:
    """Move folder ``source`` to ``target``, replacing what is there."""
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(old)
    source.rename(target)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def resumable_folder(target: Path, key: str) -> Iterator[Path]:
    """As :func:`staged_folder`; what a failed or killed block wrote is there for its next attempt.

    Args:
        key: Names what the block makes, and from what: what another key left is deleted.

    Raises:
        ReforgeError: the disk refuses, or another process is at it.
    """
    staging = target.with_name(f".{target.name}.{key}.partial")
    with ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(target.with_name(f".{target.name}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in target.parent.glob(f".{target.name}.*.partial"):
                if left != staging:
                    shutil.rmtree(left, ignore_errors=True)
            staging.mkdir(exist_ok=True)
        except BlockingIOError as error:
            raise ReforgeError(f"another process is making {target}: wait for it") from error
        except OSError as error:
            raise ReforgeError(
                f"cannot write to {target.parent}: {error.strerror}; free the disk or make it "
                "writable"
            ) from error
        yield staging
        sync_folder(staging)
        replace_folder(staging, target)


def _remove_abandoned(target: Path) -> None:
    """Delete what killed processes left of their attempts at ``target``."""
    for left in target.parent.glob(f".{target.name}.*.partial"):
        pid = left.name.split(".")[-2]
        if pid.isdecimal() and not _is_running(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as somebody else
        return True
    return True


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A fresh folder beside ``target`` that takes its place when the block succeeds.

    When the block fails the folder is removed and ``target`` is as it was.
    """
    staging = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
    except OSError as error:
        raise ReforgeError(
            f"cannot write to {target.parent}: {error.strerror}; free the disk or make it writable"
        ) from error
    try:
        yield staging
        sync_folder(staging)
        replace_folder(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
