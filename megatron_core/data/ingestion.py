"""Sources of any kind into shards of one form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from megatron_core.config import IngestConfig
from megatron_core.data.documents import Document, ShardWriter, write_lines
from megatron_core.data.sources import Broken, Source, open_source
from megatron_core.data.tasks import Tasks
from megatron_core.errors import CorpusError
from megatron_core.progress import track

_SHOWN = 10  # broken records that the error names


@dataclass
class SourceCounts:
    """What was read of one source."""

    documents: int = 0
    characters: int = 0
    broken: int = 0


def ingest_sources(config: IngestConfig, output: Path, tasks: Tasks) -> dict[str, SourceCounts]:
    """Read every source and write ``documents/*.jsonl`` and ``broken.jsonl`` into ``output``.

    Document i over all sources, in the recipe's order, goes to shard i % ``config.shards``.

    Returns:
        What was read, by source.

    Raises:
        CorpusError: a source is missing, unreadable or has no documents, or more than
            ``config.max_broken`` records are broken.
        MissingExtraError: a source needs a package that is not installed.
    """
    counts = {}
    broken = _BrokenRecords(config.max_broken)
    with ShardWriter(output / "documents", config.shards) as writer:
        for name, source_config in config.sources.items():
            source = open_source(source_config, tasks.workers)
            counts[name] = _ingest(name, source, config.max_documents, writer, broken)
    broken.check()
    for name, count in counts.items():
        if not count.documents:
            raise CorpusError(
                f"ingest.sources.{name} has no documents: every record of it is empty or broken"
            )
    write_lines(output / "broken.jsonl", broken.records)
    return counts


class _BrokenRecords:
    """The records set aside; stops the stage early once they are far too many."""

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._named: list[str] = []
        self.records: list[dict[str, Any]] = []

    def add(self, source: str, row: int, record: Broken) -> None:
        self._named.append(str(record))
        # Only the file's name: a path would tie the artifact to one machine.
        file = Path(record.file).name
        self.records.append(
            {
                "file": file,
                "line": record.line,
                "reason": record.reason,
                "row": row,
                "source": source,
            }
        )
        if len(self.records) >= self._allowed + _SHOWN:
            self.check()

    def check(self) -> None:
        if len(self.records) > self._allowed:
            more = len(self._named) - _SHOWN
            raise CorpusError(
                f"more than ingest.max_broken = {self._allowed} records cannot be read:\n  "
                + "\n  ".join(self._named[:_SHOWN])
                + (f"\n  and {more} more" if more > 0 else "")
                + "\nmend them, or raise ingest.max_broken to set them aside"
            )


def _ingest(
    name: str, source: Source, most: int | None, writer: ShardWriter, broken: _BrokenRecords
) -> SourceCounts:
    counts = SourceCounts()
    for row, record in track(enumerate(source), name):
        if isinstance(record, Broken):
            broken.add(name, row, record)
            counts.broken += 1
            continue
        try:
            writer.write(Document(name, row, record.text, record.metadata))
        except orjson.JSONEncodeError:
            broken.add(name, row, Broken(f"{name}/{row}", None, "no valid Unicode"))
            counts.broken += 1
            continue
        counts.documents += 1
        counts.characters += len(record.text)
        if counts.documents == most:
            break
    return counts
