"""Documents and the JSON-lines shards they are kept in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from megatron_core.errors import CorpusError

_BUFFER = 1 << 22  # bytes gathered before they are written


@dataclass(slots=True)  # frozen, one would take five times as long to make
class Document:
    """One text with where it came from; nobody changes one.

    ``row`` counts from 0 over all records of ``source``; ``id`` is ``source/row`` and stays with
    the document through every stage.
    """

    source: str
    row: int
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """``source/row``."""
        return f"{self.source}/{self.row}"

    def to_line(self) -> bytes:
        """The document as one JSON line with sorted keys.

        Raises:
            orjson.JSONEncodeError: the text is not valid Unicode (it has lone surrogates).
        """
        return to_line(
            {
                "id": self.id,
                "metadata": self.metadata,
                "row": self.row,
                "source": self.source,
                "text": self.text,
            }
        )

    @classmethod
    def from_line(cls, line: bytes) -> Document:
        """Read what ``to_line`` wrote.

        Raises:
            ValueError: ``line`` is no document; the message says why.
        """
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"no valid JSON ({error})") from error
        try:
            document = cls(value["source"], value["row"], value["text"], value["metadata"])
            whole = (
                isinstance(document.source, str)
                and isinstance(document.row, int)
                and isinstance(document.text, str)
                and isinstance(document.metadata, dict)
                and value["id"] == document.id
            )
        except (KeyError, TypeError):
            whole = False
        if not whole:
            raise ValueError(_misfit(value))
        return document


def _misfit(value: Any) -> str:
    """Why ``value`` is no document."""
    if not isinstance(value, dict):
        return "no JSON object"
    kinds = {"id": str, "source": str, "row": int, "text": str, "metadata": dict}
    for key, kind in kinds.items():
        if not isinstance(value.get(key), kind):
            return f"`{key}` is missing or is no {kind.__name__}"
    return f"`id` is {value['id']!r}, not '{value['source']}/{value['row']}'"


def to_line(value: dict[str, Any]) -> bytes:
    """``value`` as one JSON line with sorted keys, newline included."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def write_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """Write ``values`` to ``path`` as JSON lines with sorted keys."""
    with path.open("wb") as file:
        file.writelines(map(to_line, values))


def list_shards(folder: Path) -> list[Path]:
    """The shards in ``folder``, in order.

    Raises:
        CorpusError: there are none.
    """
    shards = sorted(folder.glob("*.jsonl"))
    if not shards:
        raise CorpusError(f"{folder} holds no shards (*.jsonl): run the stage that makes it again")
    return shards


def read_shard(path: Path) -> Iterator[Document]:
    """The documents of one shard, which may be none.

    Raises:
        CorpusError: the file cannot be read or a line is no document; names file and line.
    """
    number = 1
    try:
        with path.open("rb") as file:
            for line in file:
                yield Document.from_line(line)
                number += 1
    except ValueError as error:
        raise CorpusError(f"{path}:{number}: {error}; run the stage that makes it again") from error
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}") from error


def read_shards(folder: Path) -> Iterator[Document]:
    """The documents of every shard in ``folder``, shard after shard.

    Raises:
        CorpusError: there are no shards, a line is no document, or no shard has a document.
    """
    empty = True
    for path in list_shards(folder):
        for document in read_shard(path):
            empty = False
            yield document
    if empty:
        raise CorpusError(f"{folder} holds no documents: its shards are empty")


def write_shard(path: Path, documents: Iterable[Document]) -> None:
    """Write ``documents`` to the one shard ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.writelines(document.to_line() for document in documents)


class ShardWriter:
    """Deals documents into ``shards`` files of ``folder``: number i goes to shard i % shards.

    Lines are gathered in memory and appended now and then: thousands of shards are more files
    than a process may hold open.
    """

    def __init__(self, folder: Path, shards: int) -> None:
        self._paths = [folder / f"{shard:05d}.jsonl" for shard in range(shards)]
        self._lines: list[list[bytes]] = [[] for _ in self._paths]
        self._waiting = 0
        self.count = 0

    def __enter__(self) -> ShardWriter:
        self._paths[0].parent.mkdir(parents=True, exist_ok=True)
        for path in self._paths:
            path.write_bytes(b"")
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._flush()

    def write(self, document: Document) -> None:
        """Append ``document`` to the shard whose turn it is.

        Raises:
            orjson.JSONEncodeError: the text is not valid Unicode; nothing was written.
        """
        line = document.to_line()
        self._lines[self.count % len(self._paths)].append(line)
        self.count += 1
        self._waiting += len(line)
        if self._waiting > _BUFFER:
            self._flush()

    def _flush(self) -> None:
        for path, lines in zip(self._paths, self._lines, strict=True):
            if lines:
                with path.open("ab") as file:
                    file.write(b"".join(lines))  # one call to the system
                lines.clear()
        self._waiting = 0
