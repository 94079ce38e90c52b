"""Rows of task files: JSON lines, JSON, CSV and TSV, with the place of each."""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import orjson
import zstandard

from megatron_core.data.sources.reading import BYTE_ORDER_MARK, PACKED, open_raw
from megatron_core.errors import CorpusError

Item = TypeVar("Item")
Names = str | Sequence[str]

FORMATS = (".jsonl", ".json", ".csv", ".tsv")
_FIELDS = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Items(Generic[Item]):
    """What was read of a file, in its order.

    Attributes:
        items: The examples.
        counts: How many things were changed or left out, by what was done.
    """

    items: tuple[Item, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a file.

    Attributes:
        place: File and line, for messages.
        id: The record's key where the file has one, else the file's name and the line.
        values: By the name of the field.
    """

    place: str
    id: str
    values: Mapping[str, Any]

    def value(self, name: str) -> Any:
        """What stands in a field; ``a.b`` is field ``b`` of the object in ``a``.

        Raises:
            CorpusError: there is no such field.
        """
        if name in self.values:
            return self.values[name]
        value: Any = self.values
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                known = ", ".join(sorted(map(str, self.values)))
                raise CorpusError(f"{self.place}: no field {name!r}; there are {known or 'none'}")
            value = value[part]
        return value

    def text(self, names: Names) -> str:
        """The text in a field, or in several with a space between; a list's texts likewise.

        A name with braces is a form to fill in: ``"Summarize: {dialogue}"``.

        Raises:
            CorpusError: a field is not there, or holds no text.
        """
        if not isinstance(names, str):
            return " ".join(self.text(name) for name in names)
        if _FIELDS.search(names):
            return _FIELDS.sub(lambda found: self.text(found[1]), names)
        value = self.value(names)
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return " ".join(value)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise CorpusError(
                f"{self.place}: field {names!r} holds {_kind(value)}, not text or a list of texts"
            )
        return str(value)

    def optional(self, names: Names | None) -> str | None:
        """As ``text``; None where no field is named, or it is empty or null."""
        if names is None or (isinstance(names, str) and self._is_null(names)):
            return None
        return self.text(names) or None

    def _is_null(self, name: str) -> bool:
        return not _FIELDS.search(name) and self.value(name) is None

    def number(self, name: str) -> float:
        """The number in a field.

        Raises:
            CorpusError: there is none.
        """
        text = self.text(name)
        try:
            return float(text)
        except ValueError as error:
            raise CorpusError(f"{self.place}: field {name!r} is {text!r}, not a number") from error


def read_rows(path: Path) -> list[Row]:
    """The records of a file, by its suffix: JSON lines, JSON, CSV or TSV, maybe compressed.

    CSV and TSV have a header. JSON is a list of objects, ``{"data": [...]}`` or, as PubMedQA has
    it, objects by their keys.

    Raises:
        CorpusError: the file is missing, unreadable or empty; names file, line and what is
            allowed.
    """
    suffix = format_of(path)
    if suffix == ".jsonl":
        rows = list(_json_lines(path))
    elif suffix == ".json":
        rows = list(_json(path))
    else:
        rows = list(_table(path, "," if suffix == ".csv" else "\t"))
    if not rows:
        raise CorpusError(f"{path} has no records")
    return rows


def format_of(path: Path) -> str:
    """The suffix of ``path`` that says its format.

    Raises:
        CorpusError: it says none.
    """
    name = path.name
    for packed in PACKED[1:]:
        name = name.removesuffix(packed)
    suffix = Path(name).suffix.lower()
    if suffix not in FORMATS:
        raise CorpusError(
            f"{path}: the suffix says no format; allowed are {', '.join(FORMATS)}, also with "
            f"{' or '.join(PACKED[1:])}"
        )
    return suffix


def read_text(path: Path) -> str:
    """The content of a file, decompressed by its suffix, with ``\\n`` at the ends of lines.

    Raises:
        CorpusError: it is missing, unreadable or no UTF-8.
    """
    return read_exactly(path).replace("\r\n", "\n").replace("\r", "\n")


def read_exactly(path: Path) -> str:
    """The content of a file to the character, as offsets into it count them.

    Raises:
        CorpusError: it is missing, unreadable or no UTF-8.
    """
    try:
        with io.BufferedReader(open_raw(path)) as file:
            return file.read().removeprefix(BYTE_ORDER_MARK).decode()
    except FileNotFoundError as error:
        raise CorpusError(f"{path} does not exist") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is no UTF-8 at byte {error.start}") from error
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise CorpusError(f"{path} cannot be read ({error})") from error


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            place = f"{path}:{number}"
            yield _row(place, f"{path.name}:{number}", load_json(line, place))


def _json(path: Path) -> Iterator[Row]:
    value = load_json(read_text(path), str(path))
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, dict):
        for key, record in value.items():
            yield _row(f"{path}: {key!r}", key, record)
    elif isinstance(value, list):
        for number, record in enumerate(value, start=1):
            yield _row(f"{path}: record {number}", f"{path.name}:{number}", record)
    else:
        raise CorpusError(f"{path} holds {_kind(value)}, not a list or objects by their keys")


def _table(path: Path, delimiter: str) -> Iterator[Row]:
    # With the line ends as they are: one within quotes is text.
    # Of TSV a quote is a character like any other.
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    text = io.StringIO(read_text(path), newline="")
    reader = csv.reader(text, delimiter=delimiter, quoting=quoting, strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            place, start = f"{path}:{start}", reader.line_num + 1
            if not any(cells):
                continue
            if header is None:
                header = cells
                _check_header(place, header)
            elif len(cells) != len(header):
                raise CorpusError(
                    f"{place}: {len(cells)} cells, and the header has {len(header)}: "
                    f"{', '.join(header)}"
                )
            else:
                line = place.rpartition(":")[2]
                yield Row(place, f"{path.name}:{line}", dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise CorpusError(f"{path}:{start}: no valid table ({error})") from error


def _check_header(place: str, header: Sequence[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise CorpusError(f"{place}: the header names {', '.join(map(repr, twice))} twice")


def load_json(text: str, place: str) -> Any:
    """What ``text`` holds.

    Raises:
        CorpusError: it is no JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise CorpusError(f"{place}: no valid JSON: {error}") from error


def _row(place: str, id: str, value: Any) -> Row:
    if not isinstance(value, dict):
        raise CorpusError(f"{place}: {_kind(value)}, not an object with fields")
    return Row(place, id, value)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", type(None): "null"}
    return kinds.get(type(value), f"a {type(value).__name__}")
