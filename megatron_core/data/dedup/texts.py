"""The third pass: what of the texts themselves the later passes need, a shard at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_core.config import DedupConfig
from megatron_core.data.dedup.corpus import Corpus, Numbers, load, save, within
from megatron_core.data.documents import Document
from megatron_core.data.words import Words

SHOWN = 200  # characters of a text that people are shown


def keep_texts(shard: int, corpus: Corpus, config: DedupConfig) -> None:
    """Write the ``shingles`` of the shard's near candidates, and the ``beginnings`` of all its
    documents that may turn out to have a duplicate."""
    folder = corpus.place("texts", shard)
    folder.mkdir(parents=True, exist_ok=True)
    candidates, named = _wanted(shard, corpus, "candidates"), _wanted(shard, corpus, "named")
    copies = load(corpus.place("signatures", shard), "copies") + corpus.firsts[shard]
    named = np.union1d(named, copies)
    with ExitStack() as stack:
        shingles = stack.enter_context(_Writer(folder, "shingles", np.dtype(np.uint64)))
        beginnings = stack.enter_context(_Writer(folder, "beginnings", np.dtype(np.uint8)))
        for number, line in _chosen(corpus.lines(shard), named):
            text = Document.from_line(line).text
            beginnings.add(number, np.frombuffer(text[:SHOWN].encode(), dtype=np.uint8))
            place = np.searchsorted(candidates, number)
            if place < len(candidates) and candidates[place] == number:
                shingles.add(number, np.unique(Words.of(text).ngram_hashes(config.ngram)))


def _wanted(shard: int, corpus: Corpus, name: str) -> Numbers:
    first, end = corpus.firsts[shard : shard + 2]
    found = [
        within(load(corpus.place("candidates", partition), name), first, end)
        for partition in range(corpus.partitions)
    ]
    return np.unique(np.concatenate(found))


def _chosen(lines: Iterator[tuple[int, bytes]], wanted: Numbers) -> Iterator[tuple[int, bytes]]:
    left = iter(wanted.tolist())
    following = next(left, None)
    for number, line in lines:
        if number == following:
            yield number, line
            following = next(left, None)


class _Writer:
    """Appends an array for each of some documents, in the order of their numbers."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any]) -> None:
        self._folder, self._name, self._dtype = folder, name, dtype
        self._numbers, self._ends = bytearray(), bytearray()
        self._end = 0

    def __enter__(self) -> _Writer:
        self._file = (self._folder / self._name).open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        numbers, ends = (np.frombuffer(x, np.int64) for x in (self._numbers, self._ends))
        save(
            self._folder,
            **{f"{self._name}_of": numbers, f"{self._name}_bounds": np.insert(ends, 0, 0)},
        )

    def add(self, number: int, values: NDArray[Any]) -> None:
        self._file.write(values.tobytes())
        self._end += len(values)
        self._numbers += number.to_bytes(8, "little")
        self._ends += self._end.to_bytes(8, "little")


def sizes_of(corpus: Corpus, name: str, numbers: Numbers) -> Numbers:
    """How long the ``shingles`` or ``beginnings`` of ascending ``numbers`` are: [numbers]."""
    sizes = np.empty(len(numbers), dtype=np.int64)
    for shard, here in corpus.by_shard(numbers):
        _, starts, ends = _find(corpus, shard, name, numbers[here])
        sizes[here] = ends - starts
    return sizes


def read_arrays(corpus: Corpus, name: str, numbers: Numbers) -> tuple[NDArray[Any], Numbers]:
    """The ``shingles`` (uint64) or ``beginnings`` (UTF-8, uint8) of ascending ``numbers``, one
    after the other, and the bounds [numbers + 1] of each."""
    dtype = np.uint64 if name == "shingles" else np.uint8
    found, sizes = [np.empty(0, dtype)], [np.zeros(1, dtype=np.int64)]
    for shard, here in corpus.by_shard(numbers):
        path, starts, ends = _find(corpus, shard, name, numbers[here])
        if path.stat().st_size:
            values = np.asarray(np.memmap(path, dtype, mode="r"))
            found += [values[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
        sizes.append(ends - starts)
    return np.concatenate(found), np.cumsum(np.concatenate(sizes))


def _find(corpus: Corpus, shard: int, name: str, numbers: Numbers) -> tuple[Path, Numbers, Numbers]:
    folder = corpus.place("texts", shard)
    places = np.searchsorted(load(folder, f"{name}_of"), numbers)
    bounds = load(folder, f"{name}_bounds")
    return folder / name, bounds[places], bounds[places + 1]
