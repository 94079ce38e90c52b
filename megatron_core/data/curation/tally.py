"""What curation kept, dropped and changed, counted per shard and added in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SAMPLES, _SAMPLE_CHARACTERS = 3, 200


@dataclass
class Tally:
    """Counts of documents kept, their characters, and what was dropped, for what reason.

    ``samples`` are the first few of each reason in the order of shards and documents. By source:
    ``kept`` documents, the ``languages`` of those asked, and how many spans of which class were
    ``deidentified`` in those kept.
    """

    documents: int = 0
    characters: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    kept: Counter[str] = field(default_factory=Counter)
    languages: dict[str, Counter[str]] = field(default_factory=dict)
    deidentified: dict[str, Counter[str]] = field(default_factory=dict)

    def keep(self, source: str, text: str) -> None:
        """Count a document that stays."""
        self.documents += 1
        self.characters += len(text)
        self.kept[source] += 1

    def drop(self, reason: str, id: str, text: str) -> None:
        """Count a document that goes, and keep its start if it is one of the first."""
        self.dropped[reason] += 1
        if self.wants_sample(reason):
            sample = {"id": id, "text": text[:_SAMPLE_CHARACTERS]}
            self.samples.setdefault(reason, []).append(sample)

    def wants_sample(self, reason: str) -> bool:
        """Whether there are not enough samples of ``reason`` yet."""
        return len(self.samples.get(reason, ())) < _SAMPLES

    def count_language(self, source: str, language: str) -> None:
        """Count a document by its language, whether it stays or goes."""
        self.languages.setdefault(source, Counter())[language] += 1

    def count_spans(self, source: str, spans: Mapping[str, int]) -> None:
        """Count what was replaced in a document that stays."""
        if spans:
            self.deidentified.setdefault(source, Counter()).update(spans)

    def merge(self, other: Tally) -> None:
        """Add the counts of the next shard."""
        self.documents += other.documents
        self.characters += other.characters
        self.dropped.update(other.dropped)
        self.kept.update(other.kept)
        for reason, samples in other.samples.items():
            self.samples[reason] = (self.samples.get(reason, []) + samples)[:_SAMPLES]
        for ours, theirs in (
            (self.languages, other.languages),
            (self.deidentified, other.deidentified),
        ):
            for source, counts in theirs.items():
                ours.setdefault(source, Counter()).update(counts)

    def drops(self) -> dict[str, Any]:
        """Count and samples by reason."""
        return {
            reason: {"documents": count, "samples": self.samples.get(reason, [])}
            for reason, count in sorted(self.dropped.items())
        }

    def metrics(self) -> dict[str, Any]:
        """The numbers, those by source as far as there are any."""
        sources: dict[str, dict[str, Any]] = {
            source: {"documents": self.kept[source]}
            for source in sorted({*self.kept, *self.languages})
        }
        for name, counted in (
            ("languages", self.languages),
            ("deidentified", self.deidentified),
        ):
            for source, counts in counted.items():
                sources[source][name] = dict(sorted(counts.items()))
        return {
            "documents": self.documents,
            "characters": self.characters,
            "dropped": self.dropped.total(),
            "reasons": dict(sorted(self.dropped.items())),
            "sources": sources,
        }
