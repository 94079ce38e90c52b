"""The documents of all shards under one numbering, and what the passes wrote about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megatron_core.errors import CorpusError

Numbers = NDArray[np.int64]

_PARTITION = 1 << 20  # documents

# What decides which document of a group is kept, and its identity.
RANK = np.dtype([("score", "<f8"), ("length", "<i8"), ("source", "<u4"), ("row", "<i8")])


class ShardSize(NamedTuple):
    """How much a shard holds; ``sources`` are those of its documents, in the order met."""

    documents: int
    characters: int
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """Documents are numbered through all shards; the numbers never reach an artifact.

    Each pass leaves arrays below ``folder``, a folder for each shard or partition, which later
    passes map into memory and read in part.
    """

    folder: Path
    shards: tuple[Path, ...]
    sizes: tuple[ShardSize, ...]

    @property
    def partitions(self) -> int:
        """Into how many ranges the hashes are cut, each with about a million of a bucket."""
        return -(-self.documents // _PARTITION)

    @cached_property
    def firsts(self) -> Numbers:
        """The number of each shard's first document, and how many there are: [shards + 1]."""
        return np.cumsum([0, *(size.documents for size in self.sizes)])

    @property
    def documents(self) -> int:
        """How many there are."""
        return int(self.firsts[-1])

    @cached_property
    def sources(self) -> list[str]:
        """Every source, in the order of their names."""
        return sorted({source for size in self.sizes for source in size.sources})

    def place(self, kind: str, part: int) -> Path:
        """The folder of shard or partition ``part`` for arrays of one ``kind``."""
        return part_folder(self.folder, kind, part)

    def by_shard(self, numbers: Numbers) -> Iterator[tuple[int, slice]]:
        """Which of the ascending ``numbers`` stand in which shard, shards without any left out."""
        cuts = np.searchsorted(numbers, self.firsts)
        for shard in range(len(self.shards)):
            if cuts[shard] < cuts[shard + 1]:
                yield shard, slice(cuts[shard], cuts[shard + 1])

    def lines(self, shard: int) -> Iterator[tuple[int, bytes]]:
        """The number and the line of every document of a shard.

        Raises:
            CorpusError: the shard cannot be read.
        """
        path = self.shards[shard]
        try:
            with path.open("rb") as file:
                yield from enumerate(file, start=int(self.firsts[shard]))
        except OSError as error:
            raise CorpusError(f"{path} cannot be read: {error.strerror}") from error

    def gather(self, name: str, numbers: Numbers) -> NDArray[Any]:
        """The rows of the signatures' array ``name`` for ``numbers``, in whatever order."""
        like = load(self.place("signatures", 0), name)
        found = np.empty((len(numbers), *like.shape[1:]), dtype=like.dtype)
        order = np.argsort(numbers, kind="stable")
        ascending = numbers[order]
        for shard, here in self.by_shard(ascending):
            rows = load(self.place("signatures", shard), name)
            found[order[here]] = rows[ascending[here] - self.firsts[shard]]
        return found

    def ranks(self, numbers: Numbers) -> NDArray[Any]:
        """The ranks of ``numbers``, whose ``source`` is a place in :attr:`sources`."""
        ranks = self.gather("ranks", numbers)
        known = {source: place for place, source in enumerate(self.sources)}
        places = [np.array([known[s] for s in size.sources], dtype="u4") for size in self.sizes]
        starts = np.cumsum([0, *map(len, places)])
        shards = np.searchsorted(self.firsts, numbers, side="right") - 1
        ranks["source"] = np.concatenate(places)[starts[shards] + ranks["source"]]
        return ranks


def part_folder(folder: Path, kind: str, part: int) -> Path:
    """Where the arrays of one ``kind`` are for shard or partition ``part``."""
    return folder / kind / f"{part:06d}"


def save(folder: Path, **arrays: NDArray[Any]) -> None:
    """Write each of ``arrays`` to ``folder`` under its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def load(folder: Path, name: str) -> NDArray[Any]:
    """The array ``name`` of ``folder``, mapped into memory."""
    path = folder / f"{name}.npy"
    if path.stat().st_size < 4096:  # a few hundred bytes are sooner read than mapped
        return np.load(path)  # type: ignore[no-any-return]
    return np.asarray(np.load(path, mmap_mode="r"))


def within(array: NDArray[Any], first: int, end: int) -> NDArray[Any]:
    """The part of an ascending ``array`` from ``first`` up to but without ``end``."""
    low, high = np.searchsorted(array, [first, end])
    return array[low:high]


def batches(costs: NDArray[np.int64], limit: int) -> Iterator[slice]:
    """Cut a row of things into runs whose ``costs`` add up to ``limit`` at most, one at least."""
    ends = np.cumsum(costs)
    start = 0
    while start < len(ends):
        spent = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, spent + limit, side="right")))
        yield slice(start, end)
        start = end
