"""What every source is: an iterable of records, some of which may be broken."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from megatron_core.errors import CorpusError, MissingExtraError


@dataclass(frozen=True, slots=True)
class Record:
    """One text of a source."""

    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that cannot be read: the file it stands in, its line (from 1) and why."""

    file: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.reason}"


class Source(Protocol):
    """Yields its records in one fixed order; the n-th is row n, whether broken or not."""

    def __iter__(self) -> Iterator[Record | Broken]:
        """Read from the start.

        Raises:
            CorpusError: the source is missing or unreadable as a whole.
        """


def package_file(package: str, *patterns: str) -> Path:
    """The one file of an installed ``package`` that matches a pattern, without importing it.

    Raises:
        MissingExtraError: the package is not installed.
        CorpusError: this version of it does not carry the file.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(package, "texts")
    root = Path(next(iter(found.submodule_search_locations)))
    for pattern in patterns:
        if matches := sorted(root.glob(pattern)):
            return matches[0]
    raise CorpusError(
        f"the installed {package} does not carry {' or '.join(patterns)}: "
        "install the version that the constraints file pins"
    )
