"""Sources of any kind into shards of one form."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import orjson
import xxhash

from megatron_core.config import IngestConfig
from megatron_core.data.documents import Document, ShardWriter, to_line
from megatron_core.data.sources import Broken, Record, open_source
from megatron_core.data.tasks import Tasks
from megatron_core.errors import CorpusError
from megatron_core.progress import track

_SHOWN = 10  # broken records that the error names


@dataclass
class SourceCounts:
    """What was read of one source: its records are documents, broken, empty or left out."""

    documents: int = 0
    characters: int = 0
    broken: int = 0
    empty: int = 0
    left_out: int = 0

    @property
    def records(self) -> int:
        """Those that were read."""
        return self.documents + self.broken + self.empty + self.left_out


def ingest_sources(config: IngestConfig, output: Path, tasks: Tasks) -> dict[str, SourceCounts]:
    """Read every source and write ``documents/*.jsonl`` and ``broken.jsonl`` into ``output``.

    Document i over all sources, in the recipe's order, goes to shard i % ``config.shards``.

    Returns:
        What was read, by source.

    Raises:
        CorpusError: a source is missing or has no documents, or more records are broken than
            ``config.max_broken`` and ``config.max_broken_share`` allow.
        MissingExtraError: a source needs a package that is not installed.
    """
    with (
        (output / "broken.jsonl").open("wb") as file,
        ShardWriter(output / "documents", config.shards) as writer,
    ):
        broken = _BrokenRecords(config, file)
        counts = {
            name: _ingest(name, config, writer, broken, tasks.workers) for name in config.sources
        }
        broken.check(sum(count.records for count in counts.values()))
    for name, count in counts.items():
        if not count.documents:
            raise CorpusError(
                f"ingest.sources.{name} has no documents: of its {count.records} records "
                f"{count.broken} are broken, {count.empty} empty and {count.left_out} left out by "
                "its `share`"
            )
    return counts


def _ingest(
    name: str, config: IngestConfig, writer: ShardWriter, broken: _BrokenRecords, workers: int
) -> SourceCounts:
    source, counts, ids = config.sources[name], SourceCounts(), _Ids()
    for row, found in track(enumerate(open_source(source, workers)), name):
        record = _checked(found, f"{name}/{row}", ids)
        if isinstance(record, Broken):
            counts.broken += 1
            broken.add(name, row, record)
            continue
        if not record.text or record.text.isspace():
            counts.empty += 1
            continue
        document = Document(name, row, record.text, record.metadata)
        if source.share < 1 and not is_chosen(document.id, source.share):
            counts.left_out += 1
            continue
        try:
            writer.write(document)
        except orjson.JSONEncodeError as error:
            counts.broken += 1
            reason = f"cannot be written as JSON: {error}"
            broken.add(name, row, _refused(record, document.id, reason))
            continue
        counts.documents += 1
        counts.characters += len(record.text)
        if counts.documents == config.max_documents:
            break
    return counts


def is_chosen(document_id: str, share: float) -> bool:
    """Whether a document is in a ``share`` of its source: BLAKE2 of the id as a number in [0, 1).

    What is in a share is in every larger one.
    """
    digest = blake2b(f"share:{document_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < share


class _BrokenRecords:
    """Writes down the records set aside; stops the stage early once they are far too many."""

    def __init__(self, config: IngestConfig, file: BinaryIO) -> None:
        self._allowed, self._share = config.max_broken, config.max_broken_share
        self._file = file
        self._named: list[str] = []
        self._count = 0

    def add(self, source: str, row: int, record: Broken) -> None:
        self._count += 1
        if self._count <= _SHOWN:
            self._named.append(f"{source}: {record}")
        line = {
            "file": record.file,
            "line": record.line,
            "reason": record.reason,
            "row": row,
            "source": source,
        }
        self._file.write(to_line(line))
        if not self._share and self._count >= self._allowed + _SHOWN:
            self.check(0)

    def check(self, records: int) -> None:
        """Refuse when more of ``records`` are broken than may be."""
        allowed = max(self._allowed, int(self._share * records))
        if self._count <= allowed:
            return
        more = self._count - len(self._named)
        share = f" and max_broken_share = {self._share} of {records:,}" if self._share else ""
        raise CorpusError(
            f"{self._count} records or files cannot be read, which is more than "
            f"ingest.max_broken = {self._allowed}{share}:\n  "
            + "\n  ".join(self._named)
            + (f"\n  and {more} more" if more else "")
            + "\nmend them; or raise ingest.max_broken (or max_broken_share), and they are set "
            "aside with their reasons in broken.jsonl"
        )


class _Ids:
    """The ids that records brought with them, as 64-bit hashes in an open table.

    An id takes 12 to 24 bytes. Among a billion ids the chance that two of them have one hash,
    so that a record is taken for a second one, is 3 %.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))
        self._count = 0

    def add(self, id: str) -> bool:
        """Whether ``id`` is new."""
        if 3 * self._count >= 2 * len(self._slots):
            old = self._slots
            self._slots = array("Q", bytes(16 * len(old)))
            for value in filter(None, old):
                self._slots[self._slot(value)] = value
        value = xxhash.xxh3_64_intdigest(id) or 1  # zero means free
        slot = self._slot(value)
        if self._slots[slot]:
            return False
        self._slots[slot] = value
        self._count += 1
        return True

    def _slot(self, value: int) -> int:
        """Where ``value`` is, or would be."""
        slots, last = self._slots, len(self._slots) - 1
        slot = value & last
        while slots[slot] and slots[slot] != value:
            slot = (slot + 1) & last
        return slot


def _checked(record: Record | Broken, document_id: str, ids: _Ids) -> Record | Broken:
    """``record``, or what is wrong with the id that it brought with it."""
    if isinstance(record, Broken) or (id := record.metadata.get("record")) is None:
        return record
    if ids.add(str(id)):
        return record
    return _refused(record, document_id, f"a second record with the id {id!r}")


def _refused(record: Record, document_id: str, reason: str) -> Broken:
    origin = record.metadata.get("origin", {})
    return Broken(origin.get("file", document_id), origin.get("line"), reason)
