"""Which files a source's ``path`` names."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from megatron_core.errors import CorpusError


def matching_files(path: str, suffixes: Sequence[str]) -> list[Path]:
    """The files that ``path`` names: itself, a folder's files below it, or a glob's matches.

    Of a folder those count whose name ends in one of ``suffixes``, hidden ones left out. The
    order is that of the paths' characters.

    Raises:
        CorpusError: there are none.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    if place.is_dir():
        files = [
            file
            for file in place.rglob("*")
            if file.name.endswith(tuple(suffixes))
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(place).parts)
        ]
        wanted = f"no file in it ends in {', '.join(suffixes)}"
    else:
        found = glob.glob(str(place), recursive=True)  # noqa: PTH207 (Path.glob wants a folder)
        files = [file for file in map(Path, found) if file.is_file()]
        wanted = f"there is no such file, folder or match (looked from {Path.cwd()})"
    if not files:
        raise CorpusError(f"nothing to read at {path!r}: {wanted}")
    return sorted(files, key=Path.as_posix)
