"""Normalized texts, and rules that a document passes or is dropped by, with the reason."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from megatron_core.config import CurateConfig
from megatron_core.data.documents import Document, list_shards, read_shard, write_shard
from megatron_core.data.tasks import Tasks
from megatron_core.errors import CorpusError
from megatron_core.files import write_json

_SAMPLES, _SAMPLE_CHARACTERS = 3, 200

_NEWLINES = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Controls, the byte order mark and non-characters; joiners and direction marks belong to words.
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_INNER_SPACE = re.compile(r"(?<=\S)[^\S\n]+")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n){2,}")


@dataclass
class CurationCounts:
    """What was kept, and how many documents each rule dropped."""

    documents: int = 0
    characters: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def normalize(text: str) -> str:
    """``text`` in Unicode's NFC, without control characters, with one kind of newline, single
    spaces inside lines and no more than one blank line in a row; indentation stays."""
    text = unicodedata.normalize("NFC", _CONTROLS.sub("", _NEWLINES.sub("\n", text)))
    lines = (line.rstrip() for line in _INNER_SPACE.sub(" ", text).split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def drop_reason(text: str, config: CurateConfig) -> str | None:
    """The first rule that a normalized text fails, or None when it passes all."""
    if len(text) < config.min_characters:
        return "too_short"
    if len(text) > config.max_characters:
        return "too_long"
    if _alphabetic_share(text) < config.min_alphabetic:
        return "few_letters"
    if _repeated_share(text) > config.max_repeated_lines:
        return "repeated_lines"
    return None


def curate_documents(
    documents: Path, output: Path, config: CurateConfig, tasks: Tasks
) -> CurationCounts:
    """Write the documents that pass to ``output/documents``, in shards of the same names, and
    what each rule dropped to ``output/drops.json``.

    Raises:
        CorpusError: the input is empty or unreadable, or no document passes.
    """
    shards = list_shards(documents)
    work = partial(_curate_shard, folder=output / "documents", config=config)
    counts, drops = CurationCounts(), _Drops()
    for shard_counts, shard_drops in tasks.map("curate", work, shards):
        counts.documents += shard_counts.documents
        counts.characters += shard_counts.characters
        drops.merge(shard_drops)
    counts.dropped = dict(sorted(drops.counts.items()))
    if not counts.documents:
        reasons = ", ".join(f"{reason} {n}" for reason, n in counts.dropped.items())
        raise CorpusError(
            f"no document of {documents} passes the rules of `curate` "
            f"({reasons or 'there are none'}): loosen them"
        )
    write_json(output / "drops.json", drops.report())
    return counts


@dataclass
class _Drops:
    """How many documents each reason dropped, with the first few of each."""

    counts: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, reason: str, id: str, text: str) -> None:
        self.counts[reason] += 1
        samples = self.samples.setdefault(reason, [])
        if len(samples) < _SAMPLES:
            samples.append({"id": id, "text": text[:_SAMPLE_CHARACTERS]})

    def merge(self, other: _Drops) -> None:
        self.counts.update(other.counts)
        for reason, samples in other.samples.items():
            self.samples[reason] = (self.samples.get(reason, []) + samples)[:_SAMPLES]

    def report(self) -> dict[str, Any]:
        return {
            reason: {"documents": self.counts[reason], "samples": self.samples[reason]}
            for reason in sorted(self.counts)
        }


def _curate_shard(shard: Path, folder: Path, config: CurateConfig) -> tuple[CurationCounts, _Drops]:
    counts, drops = CurationCounts(), _Drops()

    def passing() -> Iterator[Document]:
        for document in read_shard(shard):
            text = normalize(document.text)
            if reason := drop_reason(text, config):
                drops.add(reason, document.id, text)
                continue
            counts.documents += 1
            counts.characters += len(text)
            yield replace(document, text=text)

    write_shard(folder / shard.name, passing())
    return counts, drops


def _alphabetic_share(text: str) -> float:
    """The share of letters, their combining marks, and spaces."""
    if not text:
        return 0.0
    count = sum(map(str.isalpha, text)) + sum(map(str.isspace, text))
    if not text.isascii():
        count += sum(unicodedata.category(character)[0] == "M" for character in text)
    return count / len(text)


def _repeated_share(text: str) -> float:
    """The share of lines that repeat an earlier one, blank ones left out."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0
