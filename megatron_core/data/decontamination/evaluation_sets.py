"""The n-grams of texts that training must not see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_core.data.compiled import compiled
from megatron_core.data.words import Words

Numbers = NDArray[np.int64]

_COMMON = 64  # texts of a set; an n-gram that stands in more is a phrase and no sign of one text


@dataclass(frozen=True)
class Overlap:
    """What a document shares with an evaluation set.

    ``overlap`` is the share of its n-grams that stand in the set. Of the n-grams of the set's
    text ``record``, named as ``source/row``, it has the share ``covered``; ``ngram`` is one that
    both have.
    """

    against: str
    overlap: float
    covered: float
    record: str | None
    ngram: str


def write_ngrams(path: Path, texts: Iterable[tuple[str, int, str]], length: int) -> int:
    """Write the n-grams of the texts of one file or shard, each with its source and row, to
    ``path``; returns how many texts there are."""
    sources: dict[str, int] = {}
    hashes, sizes, owners, rows = bytearray(), bytearray(), bytearray(), bytearray()
    for source, row, text in texts:
        found = np.unique(Words.of(text).ngram_hashes(length))
        hashes += found.tobytes()
        sizes += len(found).to_bytes(8, "little")
        owners += sources.setdefault(source, len(sources)).to_bytes(8, "little")
        rows += row.to_bytes(8, "little")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(
            file,
            hashes=np.frombuffer(hashes, np.uint64),
            sizes=np.frombuffer(sizes, np.int64),
            owners=np.frombuffer(owners, np.int64),
            rows=np.frombuffer(rows, np.int64),
            sources=np.array(list(sources), dtype=np.str_),
        )
    return len(rows) // 8


def write_index(folder: Path, sets: Sequence[Sequence[Path]]) -> None:
    """Write to ``folder`` the index of what :func:`write_ngrams` wrote for each set.

    Texts are numbered set after set, within one by source and row. Each n-gram of a text is an
    entry, its number, in the order of the hashes. An n-gram that more than 64 texts of a set have
    is a single entry, the set's complement: it is a sign of none of them.
    """
    parts = [(n, np.load(path)) for n, paths in enumerate(sets) for path in paths]
    names = sorted({str(name) for _, part in parts for name in part["sources"]})
    places = {name: place for place, name in enumerate(names)}
    owners = [np.array([places[str(s)] for s in part["sources"]], np.int64) for _, part in parts]
    sources = np.concatenate(
        [o[part["owners"]] for o, (_, part) in zip(owners, parts, strict=True)]
    )
    within = np.concatenate([np.full(len(part["rows"]), n) for n, part in parts])
    rows, sizes, hashes = (
        np.concatenate([part[name] for _, part in parts]) for name in ("rows", "sizes", "hashes")
    )
    order = np.lexsort((rows, sources, within))
    numbers = np.empty_like(order)
    numbers[order] = np.arange(len(order))
    entries = np.repeat(numbers, sizes)
    rows, sources, within, sizes = (a[order] for a in (rows, sources, within, sizes))
    hashes, entries = _entries(hashes, entries, within, sizes)
    bits = max(1, len(hashes).bit_length() - 2)
    firsts = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in {
        "hashes": hashes, "entries": entries, "sizes": sizes, "within": within, "rows": rows,
        "sources": sources, "names": np.array(names),
        "starts": np.append(np.searchsorted(hashes, firsts), len(hashes)),
    }.items():  # fmt: skip
        np.save(folder / f"{name}.npy", array)


def _entries(
    hashes: NDArray[np.uint64], texts: Numbers, within: Numbers, sizes: Numbers
) -> tuple[NDArray[np.uint64], Numbers]:
    """Hashes and entries of the index; takes from ``sizes`` what is a sign of no text."""
    order = np.lexsort((texts, hashes))
    hashes, texts = hashes[order], texts[order]
    sets = within[texts]
    new = np.ones(len(hashes), dtype=np.bool_)
    new[1:] = (hashes[1:] != hashes[:-1]) | (sets[1:] != sets[:-1])
    runs = np.cumsum(new) - 1
    common = np.bincount(runs)[runs] > _COMMON
    np.subtract.at(sizes, texts[common], 1)
    kept = new | ~common
    return hashes[kept], np.where(common, ~sets, texts)[kept]


class EvaluationSets:
    """The index that :func:`write_index` wrote to ``folder``, mapped into memory.

    Args:
        names: Of the sets, in their order.
        length: Words of the n-grams.
    """

    def __init__(self, folder: Path, names: Sequence[str], length: int) -> None:
        def read(name: str) -> NDArray[Any]:
            return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))

        self._names, self._length = names, length
        self._hashes, self._starts, self._entries = read("hashes"), read("starts"), read("entries")
        self._shift = np.uint64(65 - len(self._starts[1:]).bit_length())
        self._sizes, self._within = read("sizes"), read("within")
        self._rows, self._sources, self._source_names = read("rows"), read("sources"), read("names")

    def overlap(self, text: str, max_overlap: float, max_covered: float) -> Overlap | None:
        """Why ``text`` must not be trained on: the set that holds most of its n-grams, if that is
        more than ``max_overlap`` of them; or the set with the text of which it has most, if that
        is more than ``max_covered``. The first of those even."""
        words = Words.of(text)
        hashes = words.ngram_hashes(self._length)
        distinct, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        entries, found = _look_up(distinct, self._hashes, self._starts, self._shift, self._entries)
        if not len(entries):
            return None
        sets = np.where(entries < 0, ~entries, self._within[np.maximum(entries, 0)])
        shares = self._shares(sets, found, counts) / len(hashes)
        texts, shared = np.unique(entries[entries >= 0], return_counts=True)
        covered = shared / self._sizes[texts]
        if shares.max() > max_overlap:
            against = int(shares.argmax())
        elif covered.max(initial=0) > max_covered:
            against = int(self._within[texts[covered.argmax()]])
        else:
            return None
        of_set = np.flatnonzero(self._within[texts] == against)
        place = of_set[covered[of_set].argmax()] if len(of_set) else None
        shown = sets == against if place is None else entries == texts[place]
        return Overlap(
            self._names[against],
            float(shares[against]),
            0.0 if place is None else float(covered[place]),
            None if place is None else self._id(int(texts[place])),
            words.ngram(int(first[found[shown]].min()), self._length),
        )

    def _shares(self, sets: Numbers, found: Numbers, counts: Numbers) -> Numbers:
        """How many n-grams of a document stand in each set: [sets]."""
        pairs = np.unique(np.stack([sets, found]), axis=1)
        return np.bincount(pairs[0], counts[pairs[1]], len(self._names))

    def _id(self, text: int) -> str:
        return f"{self._source_names[self._sources[text]]}/{self._rows[text]}"


@compiled
def _look_up(
    hashes: NDArray[np.uint64],
    known: NDArray[np.uint64],
    starts: Numbers,
    shift: np.uint64,
    entries: Numbers,
) -> tuple[Numbers, Numbers]:
    """The entries of those of ``hashes`` that are ``known``, and the place of each in ``hashes``.

    The known hashes whose high part, without ``shift`` bits, is n begin at ``starts[n]``.
    """
    found = 0
    for count_only in (True, False):
        if not count_only:
            values, places = np.empty(found, np.int64), np.empty(found, np.int64)
            found = 0
        for n in range(len(hashes)):
            part = np.int64(hashes[n] >> shift)
            for i in range(starts[part], starts[part + 1]):
                if known[i] == hashes[n]:
                    if not count_only:
                        values[found], places[found] = entries[i], n
                    found += 1
    return values, places
