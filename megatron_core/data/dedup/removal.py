"""Which documents of a corpus repeat another, and the corpus without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megatron_core.config import DedupConfig
from megatron_core.data.dedup.clusters import Clusters
from megatron_core.data.dedup.exact import exact_key, first_of_each
from megatron_core.data.dedup.minhash import MinHash, candidate_groups, jaccard
from megatron_core.data.documents import list_shards, read_shard, write_lines, write_shard
from megatron_core.data.tasks import Tasks
from megatron_core.data.words import ngram_hashes, words
from megatron_core.errors import CorpusError
from megatron_core.progress import track

_SHOWN = 200  # characters of each text in duplicates.jsonl


@dataclass(frozen=True)
class DedupCounts:
    """Documents kept and removed; ``clusters`` counts the groups of near-duplicates."""

    documents: int
    characters: int
    exact: int
    near: int
    clusters: int
    by_source: dict[str, int]


class _Seen(NamedTuple):
    """What is remembered of a document between the passes; ``rank`` sorts survivors first."""

    rank: tuple[int, str, int]
    key: bytes
    bands: NDArray[np.uint64]

    @property
    def id(self) -> str:
        return f"{self.rank[1]}/{self.rank[2]}"


class _Duplicate(NamedTuple):
    id: str
    kept: str
    kind: str
    similarity: float


def remove_duplicates(
    documents: Path, output: Path, config: DedupConfig, tasks: Tasks
) -> DedupCounts:
    """Write the corpus without duplicates to ``output/documents``, in shards of the same names,
    and a line for each document removed to ``output/duplicates.jsonl``.

    Of documents that belong together the longest is kept; among equally long ones the one whose
    source, then row, comes first. Neither shards nor workers change which.

    Raises:
        CorpusError: the input is empty or unreadable.
    """
    shards = list_shards(documents)
    scanned = tasks.map("signatures", partial(_scan_shard, config=config), shards)
    seen = [one for shard in scanned for one in shard]
    if not seen:
        raise CorpusError(f"{documents} holds no documents: its shards are empty")
    seen.sort(key=lambda one: one.rank)
    exact = _exact_duplicates(seen)
    gone = {duplicate.id for duplicate in exact}
    unique = [one for one in seen if one.id not in gone]
    near, clusters = _near_duplicates(unique, shards, config)
    removed = [*exact, *near]
    characters = _write(shards, output, removed)
    return DedupCounts(
        documents=len(seen) - len(removed),
        characters=characters,
        exact=len(exact),
        near=len(near),
        clusters=clusters,
        by_source=dict(sorted(Counter(one.id.rpartition("/")[0] for one in removed).items())),
    )


def _scan_shard(shard: Path, config: DedupConfig) -> list[_Seen]:
    minhash = MinHash.of(config)
    seen = []
    for document in read_shard(shard):
        found = words(document.text)
        rank = (-len(document.text), document.source, document.row)
        seen.append(_Seen(rank, exact_key(found), minhash.bands(found)))
    return seen


def _exact_duplicates(seen: list[_Seen]) -> list[_Duplicate]:
    firsts = first_of_each([one.key for one in seen])
    return [
        _Duplicate(seen[position].id, seen[first].id, "exact", 1.0)
        for position, first in enumerate(firsts)
        if first != position
    ]


def _near_duplicates(
    seen: list[_Seen], shards: list[Path], config: DedupConfig
) -> tuple[list[_Duplicate], int]:
    """Near-duplicates among documents in the order of their rank, and how many clusters."""
    groups = list(candidate_groups(np.stack([one.bands for one in seen])))
    members = sorted({int(member) for group in groups for member in group})
    shingles = _read_texts(
        shards,
        {seen[member].id for member in members},
        lambda text: np.unique(ngram_hashes(words(text), config.ngram)),
    )
    clusters = Clusters(len(seen))
    refused: set[tuple[int, int]] = set()
    for group in track(groups, "candidates"):
        for one, other in combinations(group.tolist(), 2):
            if clusters.find(one) == clusters.find(other) or (one, other) in refused:
                continue
            similarity = jaccard(shingles[seen[one].id], shingles[seen[other].id])
            if similarity >= config.min_jaccard:
                clusters.join(one, other)
            else:
                refused.add((one, other))
    found = clusters.groups()
    near = [
        _Duplicate(
            seen[other].id,
            seen[kept].id,
            "near",
            jaccard(shingles[seen[kept].id], shingles[seen[other].id]),
        )
        for kept, items in found.items()
        for other in items[1:]
    ]
    return near, len(found)


def _read_texts(
    shards: Iterable[Path], ids: set[str], measure: Callable[[str], Any]
) -> dict[str, Any]:
    """``measure`` of the text of every document in ``ids``, by id."""
    return {
        document.id: measure(document.text)
        for shard in shards
        for document in read_shard(shard)
        if document.id in ids
    }


def _write(shards: list[Path], output: Path, removed: list[_Duplicate]) -> int:
    """Write the artifact; the number of characters kept."""
    gone = {duplicate.id for duplicate in removed}
    named = gone | {duplicate.kept for duplicate in removed}
    texts = _read_texts(shards, named, lambda text: text[:_SHOWN])
    characters = 0
    for shard in shards:
        kept = [document for document in read_shard(shard) if document.id not in gone]
        characters += sum(len(document.text) for document in kept)
        write_shard(output / "documents" / shard.name, kept)
    write_lines(
        output / "duplicates.jsonl",
        (
            duplicate._asdict() | {"text": texts[duplicate.id], "kept_text": texts[duplicate.kept]}
            for duplicate in removed
        ),
    )
    return characters
