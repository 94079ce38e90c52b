"""The sixth pass: which document of a cluster is kept, and what there is to say of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megatron_core.config import DedupConfig
from megatron_core.data.dedup.corpus import Corpus, Numbers, batches, load, save
from megatron_core.data.dedup.graph import similarities
from megatron_core.data.dedup.similarity import SHINGLES
from megatron_core.data.dedup.texts import read_arrays, sizes_of
from megatron_core.data.documents import write_lines

_LISTED = 100  # members of a cluster; the rest are counted


class Removed(NamedTuple):
    """What is removed: documents with the same words as the one kept, and near ones; clusters
    with more than one text; documents by source; clusters by their size."""

    exact: int
    near: int
    characters: int
    near_clusters: int
    by_source: Counter[str]
    sizes: Counter[int]


def choose_survivors(part: int, corpus: Corpus, config: DedupConfig) -> Removed:
    """Write ``gone``, the documents of a part's clusters that are removed, ascending; a line for
    each to ``duplicates.jsonl``; and the largest clusters to ``clusters.jsonl``."""
    members = _Members.of(part, corpus)
    gone = members.kept != np.arange(len(members.kept))
    near = members.texts != members.texts[members.kept]
    folder = corpus.place("survivors", part)
    save(folder, gone=np.sort(members.numbers[gone]))
    write_lines(folder / "duplicates.jsonl", map(members.duplicate, np.flatnonzero(gone).tolist()))
    starts = np.flatnonzero(~gone)
    sizes = np.diff(np.append(starts, len(gone)))
    largest = np.argsort(-sizes, kind="stable")[: config.shown_clusters]
    write_lines(
        folder / "clusters.jsonl",
        (members.cluster(int(starts[n]), int(sizes[n])) for n in largest),
    )
    return Removed(
        exact=int((gone & ~near).sum()),
        near=int(near.sum()),
        characters=int(members.ranks["length"][gone].sum()),
        near_clusters=len(np.unique(members.kept[near])),
        by_source=_count(members.ranks["source"][gone], corpus.sources),
        sizes=_count(sizes, range(int(sizes.max(initial=0)) + 1)),
    )


def _count(values: NDArray[Any], names: Sequence[Any]) -> Counter[Any]:
    found, counts = np.unique(values, return_counts=True)
    return Counter({names[n]: int(count) for n, count in zip(found, counts, strict=True)})


@dataclass(frozen=True)
class _Members:
    """The documents of a part, cluster after cluster, the best of each first; [documents] each.

    ``texts`` is the first document with the same words, ``kept`` the place of the one that is
    kept and ``similarity`` that to it. Document i begins with the UTF-8 ``letters`` between
    ``bounds[i, 0]`` and ``bounds[i, 1]``.
    """

    numbers: Numbers
    ranks: NDArray[Any]
    texts: Numbers
    kept: Numbers
    similarity: NDArray[np.float64]
    letters: NDArray[np.uint8]
    bounds: Numbers
    sources: list[str]

    @classmethod
    def of(cls, part: int, corpus: Corpus) -> _Members:
        folder = corpus.place("clusters", part)
        numbers, texts, clusters = (load(folder, n) for n in ("numbers", "texts", "clusters"))
        ranks = corpus.ranks(numbers)
        order = np.lexsort(
            (ranks["row"], ranks["source"], -ranks["length"], -ranks["score"], clusters)
        )
        numbers, texts, clusters, ranks = (a[order] for a in (numbers, texts, clusters, ranks))
        _, starts, sizes = np.unique(clusters, return_index=True, return_counts=True)
        kept = np.repeat(starts, sizes)
        ascending = np.argsort(numbers)
        letters, ends = read_arrays(corpus, "beginnings", numbers[ascending])
        bounds = np.empty((len(numbers), 2), dtype=np.int64)
        bounds[ascending] = np.stack([ends[:-1], ends[1:]], axis=1)
        similarity = _similarity(corpus, texts, texts[kept])
        return cls(numbers, ranks, texts, kept, similarity, letters, bounds, corpus.sources)

    def duplicate(self, place: int) -> dict[str, Any]:
        """The line of ``duplicates.jsonl`` of a document that is removed."""
        kept = int(self.kept[place])
        return self._described(place) | {
            "kept": self._id(kept), "kept_text": self._beginning(kept)
        }  # fmt: skip

    def cluster(self, start: int, size: int) -> dict[str, Any]:
        """The line of ``clusters.jsonl`` of the cluster that begins at ``start``."""
        listed = range(start + 1, start + min(size, _LISTED + 1))
        return {
            "documents": size,
            "kept": {"id": self._id(start), "text": self._beginning(start)},
            "members": [self._described(place) for place in listed],
            "not_listed": size - 1 - len(listed),
        }

    def _described(self, place: int) -> dict[str, Any]:
        exact = self.texts[place] == self.texts[self.kept[place]]
        return {
            "id": self._id(place),
            "kind": "exact" if exact else "near",
            "similarity": float(self.similarity[place]),
            "text": self._beginning(place),
        }

    def _id(self, place: int) -> str:
        rank = self.ranks[place]
        return f"{self.sources[rank['source']]}/{rank['row']}"

    def _beginning(self, place: int) -> str:
        return self.letters[slice(*self.bounds[place])].tobytes().decode()


def _similarity(corpus: Corpus, texts: Numbers, kept: Numbers) -> NDArray[np.float64]:
    """The Jaccard similarity of each of ``texts`` to the one that is kept: [documents]."""
    found = np.ones(len(texts))
    differ = np.flatnonzero(texts != kept)
    pairs = np.stack([texts[differ], kept[differ]], axis=1)
    named, places = np.unique(pairs, return_inverse=True)
    costs = sizes_of(corpus, "shingles", named)[places].reshape(-1, 2).sum(axis=1)
    for batch in batches(costs, SHINGLES):
        numbers, local = np.unique(pairs[batch], return_inverse=True)
        shingles, bounds = read_arrays(corpus, "shingles", numbers)
        found[differ[batch]] = similarities(shingles, bounds, local.reshape(-1, 2))
    return found
