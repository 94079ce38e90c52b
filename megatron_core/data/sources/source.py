"""What every source is: an iterable of records, some of which may be broken."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from megatron_core.config.corpus.sources import Records
from megatron_core.errors import CorpusError, MissingExtraError

_SHOWN_KEYS, _SHOWN_CHARACTERS = 20, 40


@dataclass(slots=True)  # frozen, one would take five times as long to make
class Record:
    """One text of a source.

    Of ``metadata``, ``origin`` says where in the source's files it stands, as ``{"file", "line"}``,
    and ``record`` is an id of its own that no other record of the source has.
    """

    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Broken:
    """A record or the rest of a file that cannot be read.

    ``file`` is relative to the source's path; ``line`` counts from 1, None for the file.
    """

    file: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.reason}"


class Unreadable(Exception):
    """Why a record or a file is broken."""


class Source(Protocol):
    """Yields its records in one fixed order; the n-th is row n, whether broken or not."""

    def __iter__(self) -> Iterator[Record | Broken]:
        """Read from the start.

        Raises:
            CorpusError: the source is missing or unreadable as a whole.
        """


class RecordReader:
    """Named values into records, as the recipe says."""

    def __init__(self, config: Records) -> None:
        self._text, self._metadata, self._id = config.text, config.metadata, config.id

    def read(self, values: Mapping[str, Any], origin: dict[str, Any] | None) -> Record:
        """The record of ``values``, of which None counts as absent.

        Raises:
            Unreadable: there is no text, or no id where one is asked for.
        """
        text = values.get(self._text)
        if not isinstance(text, str):
            raise Unreadable(_misfit(values, self._text, "a string"))
        metadata = {key: values[key] for key in self._metadata if values.get(key) is not None}
        if origin is not None:
            metadata["origin"] = origin
        if self._id is not None:
            metadata["record"] = values.get(self._id)
            if not isinstance(metadata["record"], str | int):
                raise Unreadable(_misfit(values, self._id, "a string or number"))
        return Record(text, metadata)


def named(keys: Mapping[str, Any] | list[str]) -> str:
    """``keys`` for a message: sorted, and not more of them than can be read."""
    shown = [key[:_SHOWN_CHARACTERS] for key in islice(sorted(keys), _SHOWN_KEYS)]
    return ", ".join(shown) + ("" if len(keys) <= _SHOWN_KEYS else ", …") or "none"


def _misfit(values: Mapping[str, Any], key: str, wanted: str) -> str:
    if key not in values:
        return f"no key `{key}`; the keys are: {named(values)}"
    value = values[key]
    if isinstance(value, UnicodeDecodeError):
        return f"`{key}` is no valid UTF-8: {value.reason}"
    return f"`{key}` is a {type(value).__name__}, not {wanted}"


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
