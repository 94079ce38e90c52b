"""Which files a source's ``path`` names, and what becomes of one that cannot be read."""

from __future__ import annotations

import glob
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import zstandard

from megatron_core.data.sources.source import Broken, Unreadable
from megatron_core.errors import CorpusError

Found = TypeVar("Found")

_UNREADABLE = (Unreadable, OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source; ``name`` is relative to the source's path, so no machine's own."""

    path: Path
    name: str


def read_files(
    path: str, suffixes: Sequence[str], read: Callable[[SourceFile], Iterable[Found]]
) -> Iterator[Found | Broken]:
    """What ``read`` yields of each file that ``path`` names, in order.

    A file that cannot be read, or not to its end, adds one broken record to what was read of it.

    Raises:
        CorpusError: there are no files.
    """
    for file in matching_files(path, suffixes):
        records = 0
        try:
            for record in read(file):
                yield record
                records += 1
        except _UNREADABLE as error:
            yield Broken(file.name, None, f"unreadable after {records} records: {_why(error)}")


def matching_files(path: str, suffixes: Sequence[str]) -> list[SourceFile]:
    """The files that ``path`` names: itself, a folder's files below it, or a glob's matches.

    Of a folder, also one that a glob matches, those count whose name ends in one of
    ``suffixes``. Hidden files are left out. Links are followed, but not in circles. What is no
    readable file is listed too, so that it is missed. The order is that of the names' characters.

    Raises:
        CorpusError: there are none.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        root, found = place, _files_below(place, suffixes)
        missing = f"no file in it ends in {', '.join(suffixes)}"
    elif os.path.lexists(place):
        root, found = place.parent, [place]
        missing = ""
    else:
        root, pattern = _split_pattern(place)
        found = []
        for match in _matches(root, pattern) if pattern else ():
            if match.is_dir():
                found += _files_below(match, suffixes) or _if_named(match, suffixes)
            else:
                found.append(match)
        missing = f"there is no such file, folder or match (looked from {Path.cwd()})"
    if not found:
        raise CorpusError(f"nothing to read at {path!r}: {missing}")
    files = {SourceFile(file, _printable(file.relative_to(root))) for file in found}
    return sorted(files, key=lambda file: file.name)


def _files_below(
    folder: Path, suffixes: Sequence[str], above: Iterable[tuple[int, int]] = ()
) -> list[Path]:
    """The files below ``folder`` with one of ``suffixes``; ``above`` are folders not to reenter."""
    try:
        status = folder.stat()
        entries = list(folder.iterdir())
    except OSError:
        return [folder]
    here = (status.st_dev, status.st_ino)
    if here in above:
        return []
    found = []
    for inside in entries:
        if inside.name.startswith("."):
            continue
        if inside.is_dir():
            found += _files_below(inside, suffixes, [*above, here])
        else:
            found += _if_named(inside, suffixes)
    # A folder that is named like a file, with nothing in it to read, stands where one should.
    return found or (_if_named(folder, suffixes) if above else [])


def _if_named(path: Path, suffixes: Sequence[str]) -> list[Path]:
    return [path] if path.name.endswith(tuple(suffixes)) else []


def _split_pattern(path: Path) -> tuple[Path, list[str]]:
    """The folder that a glob starts from, and its further parts; none when it is no glob."""
    parts = path.parts
    fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:fixed]), list(parts[fixed:])


def _matches(
    folder: Path, pattern: Sequence[str], above: Iterable[tuple[int, int]] = ()
) -> Iterator[Path]:
    """What ``pattern`` matches below ``folder``. The library's own walks in circles."""
    if not pattern:
        yield folder
        return
    try:
        status = folder.stat()
        entries = list(folder.iterdir())
    except OSError:
        return
    first, *rest = pattern
    if first == "**":
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        yield from _matches(folder, rest or ["*"])
        for inside in entries:
            if inside.is_dir() and not inside.name.startswith("."):
                yield from _matches(inside, pattern, [*above, here])
        return
    for inside in entries:
        hidden = inside.name.startswith(".") and not first.startswith(".")
        if not hidden and fnmatchcase(inside.name, first) and (not rest or inside.is_dir()):
            yield from _matches(inside, rest)


def _printable(name: Path) -> str:
    """``name`` with the bytes that are no UTF-8 spelled out."""
    return os.fsencode(name.as_posix()).decode(errors="backslashreplace")


def _why(error: BaseException) -> str:
    """The reason without the path, which differs from machine to machine."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
