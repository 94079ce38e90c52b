"""A held-out split, and a training split that stays clear of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_core.config import DecontaminateConfig
from megatron_core.data.documents import (
    Document,
    list_shards,
    read_shard,
    read_shards,
    write_lines,
    write_shard,
)
from megatron_core.data.sources import Broken, open_source
from megatron_core.data.words import Words
from megatron_core.errors import CorpusError
from megatron_core.progress import track

HELDOUT = "heldout"


@dataclass(frozen=True)
class DecontaminationCounts:
    """Documents and characters of each split; documents removed by the set they overlap with."""

    train: int
    train_characters: int
    heldout: int
    heldout_characters: int
    removed: dict[str, int]


@dataclass(frozen=True)
class Overlap:
    """How much of a document stands in an evaluation set: share of its n-grams, and one of them."""

    against: str
    share: float
    ngram: str


def is_heldout(document_id: str, config: DecontaminateConfig) -> bool:
    """Whether a document is held out: SHA-256 of seed and id, read as a number in [0, 1)."""
    digest = hashlib.sha256(f"{config.seed}:{document_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < config.heldout


class EvaluationSets:
    """The n-grams of texts that training must not see, by the set's name."""

    def __init__(self, ngram: int) -> None:
        self._ngram = ngram
        self._hashes: dict[str, NDArray[np.uint64]] = {}

    def add(self, name: str, texts: Iterable[str]) -> None:
        """Add the set ``name``."""
        found = [np.unique(Words.of(text).ngram_hashes(self._ngram)) for text in texts]
        self._hashes[name] = np.unique(np.concatenate(found))

    def overlap(self, text: str) -> Overlap:
        """The set that holds most of the n-grams of ``text``; the first one of those even."""
        found = Words.of(text)
        hashes = found.ngram_hashes(self._ngram)
        best = Overlap("", 0.0, "")
        for name, known in self._hashes.items():
            places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            shared = known[places] == hashes
            if (share := float(shared.mean())) > best.share:
                example = found.ngram(int(shared.argmax()), self._ngram)
                best = Overlap(name, share, example)
        return best


def decontaminate_documents(
    documents: Path, output: Path, config: DecontaminateConfig
) -> DecontaminationCounts:
    """Cut the corpus into ``output/train`` and ``output/heldout``, in shards of the same names,
    and write what was removed from training to ``output/removed.jsonl``.

    A document is removed when more than ``config.max_overlap`` of its word n-grams stand in the
    held-out texts, or in one of ``config.against``. A text shorter than an n-gram is one n-gram.

    Raises:
        CorpusError: the corpus or a set is empty or unreadable, or a split would be empty.
    """
    shards = list_shards(documents)
    heldout = [_write_heldout(shard, output, config) for shard in shards]
    if not sum(count for count, _ in heldout):
        raise CorpusError(
            f"no document of {documents} is held out by decontaminate.heldout = {config.heldout}: "
            "raise it or change decontaminate.seed"
        )
    sets = EvaluationSets(config.ngram)
    sets.add(HELDOUT, (document.text for document in read_shards(output / HELDOUT)))
    for name in config.against:
        sets.add(name, list(_evaluation_texts(name, config)))
    removed: list[dict[str, Any]] = []
    train = [
        _write_train(shard, output, sets, removed, config)
        for shard in track(shards, "decontaminate")
    ]
    if not sum(count for count, _ in train):
        raise CorpusError(
            f"no document of {documents} is left for training: {len(removed)} overlap with "
            "evaluation sets and the others are held out; check decontaminate.heldout and "
            "decontaminate.max_overlap"
        )
    write_lines(output / "removed.jsonl", removed)
    return DecontaminationCounts(
        train=sum(count for count, _ in train),
        train_characters=sum(characters for _, characters in train),
        heldout=sum(count for count, _ in heldout),
        heldout_characters=sum(characters for _, characters in heldout),
        removed=dict(sorted(Counter(line["against"] for line in removed).items())),
    )


def _write_heldout(shard: Path, output: Path, config: DecontaminateConfig) -> tuple[int, int]:
    chosen = [one for one in read_shard(shard) if is_heldout(one.id, config)]
    write_shard(output / HELDOUT / shard.name, chosen)
    return _size(chosen)


def _write_train(
    shard: Path,
    output: Path,
    sets: EvaluationSets,
    removed: list[dict[str, Any]],
    config: DecontaminateConfig,
) -> tuple[int, int]:
    kept = []
    for document in read_shard(shard):
        if is_heldout(document.id, config):
            continue
        overlap = sets.overlap(document.text)
        if overlap.share <= config.max_overlap:
            kept.append(document)
            continue
        removed.append(
            {
                "id": document.id,
                "against": overlap.against,
                "overlap": overlap.share,
                "ngram": overlap.ngram,
            }
        )
    write_shard(output / "train" / shard.name, kept)
    return _size(kept)


def _evaluation_texts(name: str, config: DecontaminateConfig) -> Iterator[str]:
    count = 0
    for record in open_source(config.against[name]):
        if isinstance(record, Broken):
            raise CorpusError(f"decontaminate.against.{name}: {record}; mend the file")
        count += 1
        yield record.text
    if not count:
        raise CorpusError(f"decontaminate.against.{name} has no records")


def _size(documents: list[Document]) -> tuple[int, int]:
    return len(documents), sum(len(document.text) for document in documents)
