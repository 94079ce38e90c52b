"""The first pass: what is to be known of every document, a shard at a time."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from megatron_core.config import DedupConfig
from megatron_core.data.dedup.corpus import RANK, Numbers, ShardSize, part_folder, save
from megatron_core.data.dedup.minhash import MinHash
from megatron_core.data.documents import Document, read_shard
from megatron_core.data.words import Words
from megatron_core.errors import CorpusError

Keys = NDArray[np.uint64]  # [documents, 2]: the 128-bit xxHash of a document's words


def sign_shard(number: int, shards: Sequence[Path], folder: Path, config: DedupConfig) -> ShardSize:
    """Write for every document of a shard its ``ranks`` and ``keys``; for those whose words are
    new in the shard ``bands`` and ``places``, for the others ``copies``.

    A row of ``bands`` belongs to one bucket and ascends: uint64 [1 + buckets, new]; the first row
    is the key's first half, by which copies in other shards are found. ``places`` are the
    documents within the shard, uint32 of the same shape. ``copies`` are pairs: the document with
    the same words, and the copy.

    Raises:
        CorpusError: the shard cannot be read, or a document has no score to be ranked by.
    """
    minhash = MinHash.of(config)
    sources: dict[str, int] = {}
    ranks, keys, bands = bytearray(), bytearray(), bytearray()
    characters = 0
    for document in read_shard(shards[number]):
        words = Words.of(document.text)
        characters += len(document.text)
        source = sources.setdefault(document.source, len(sources))
        ranks += struct.pack(
            "<dqIq", _score(document, config), len(document.text), source, document.row
        )
        keys += xxhash.xxh3_128_digest(words.joined.data)
        bands += minhash.bands(words.ngram_hashes(config.ngram)).tobytes()
    halves = np.frombuffer(keys, dtype=">u8").astype(np.uint64).reshape(-1, 2)
    new, copies = _first_of_each(halves)
    rows = np.frombuffer(bands, dtype=np.uint64).reshape(-1, config.buckets)
    rows = np.concatenate([halves[new, :1], rows[new]], axis=1).T
    order = np.argsort(rows, axis=1, kind="stable")
    save(
        part_folder(folder, "signatures", number),
        ranks=np.frombuffer(ranks, dtype=RANK),
        keys=halves,
        copies=copies,
        bands=np.take_along_axis(rows, order, axis=1),
        places=new.astype(np.uint32)[order],
    )
    return ShardSize(len(halves), characters, tuple(sources))


def _score(document: Document, config: DedupConfig) -> float:
    if config.score is None:
        return 0.0
    score = document.metadata.get(config.score)
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise CorpusError(
            f"document {document.id} has no number under dedup.score = {config.score!r} in its "
            f"metadata: it is {score!r}; name another key, or use survivor: longest"
        )
    return float(score)


def _first_of_each(keys: Keys) -> tuple[Numbers, Numbers]:
    """The first document with each key, ascending; and [first, later] for each later one."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    new = np.ones(len(keys), dtype=np.bool_)
    new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    first = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    return np.sort(order[new]), np.stack([first, order], axis=1)[~new]
