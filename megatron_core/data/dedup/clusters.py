"""The fifth pass: which documents belong together."""

from __future__ import annotations

import numpy as np

from megatron_core.data.dedup.corpus import Corpus, Numbers, load, save
from megatron_core.data.dedup.graph import flatten, join

_DOCUMENTS = 1 << 18  # of the clusters in one part, about


def join_documents(corpus: Corpus) -> int:
    """Write the clusters of two or more, in parts, and return how many parts.

    The order is that of each cluster's smallest key, which depends on the texts alone. A part has
    ``numbers``, the documents of its clusters; ``texts``, the first document with the same words
    as each; and ``clusters``, which ascends and says which belong together.
    """
    copies, alike = _pairs(corpus)
    connected = np.zeros(corpus.documents, dtype=np.bool_)
    for pairs in [*copies, *alike]:
        connected[pairs.ravel()] = True
    numbers = np.flatnonzero(connected)
    del connected
    same = np.arange(len(numbers))
    for pairs in copies:
        join(same, np.searchsorted(numbers, pairs))
    flatten(same)
    together = same.copy()
    for pairs in alike:
        join(together, np.searchsorted(numbers, pairs))
    flatten(together)
    smallest = np.full(len(numbers), np.iinfo(np.uint64).max)
    np.minimum.at(smallest, together, corpus.gather("keys", numbers)[:, 0])
    order = np.lexsort((together, smallest[together]))
    roots = together[order]
    starts = np.flatnonzero(np.append(True, roots[1:] != roots[:-1])) if len(roots) else roots
    clusters = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(roots))))
    # A cut is a start in whose part of the row no earlier one lies.
    _, cuts = np.unique(starts // _DOCUMENTS, return_index=True)
    bounds = np.append(starts[cuts], len(roots))
    for part in range(len(cuts)):
        here = slice(bounds[part], bounds[part + 1])
        save(
            corpus.place("clusters", part),
            numbers=numbers[order[here]],
            texts=numbers[same[order[here]]],
            clusters=clusters[here],
        )
    return len(cuts)


def _pairs(corpus: Corpus) -> tuple[list[Numbers], list[Numbers]]:
    """Pairs of documents with the same words, and of those that are alike."""
    partitions = range(corpus.partitions)
    copies = [
        *(load(corpus.place("candidates", partition), "copies") for partition in partitions),
        *(
            load(corpus.place("signatures", shard), "copies") + corpus.firsts[shard]
            for shard in range(len(corpus.shards))
        ),
    ]
    return copies, [load(corpus.place("alike", partition), "alike") for partition in partitions]
