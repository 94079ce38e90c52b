"""Megatron-LM's own order of samples, number for number.

A source's documents are shuffled as often as epochs are needed, laid end to end and cut every
``length`` tokens, and the samples are shuffled again. Three arrays say so:

- *document*: int32, the documents in their shuffled order, all epochs;
- *sample*: ``[samples + 1, 2]``, of each sample the place in the document array and the token in
  that document where it begins; a sample also has the first token of the next one;
- *shuffle*: which sample comes when.

Sources are blended by taking next the one that is furthest behind its weight.

How many epochs are shuffled together depends on how many samples are asked for: training for longer
moves samples that were seen before. ``MixedOrder`` has no such dependence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_core.data.compiled import compiled
from megatron_core.data.datasets.fingerprints import Arrays, IndexCache
from megatron_core.data.datasets.order import require_sources
from megatron_core.data.datasets.spans import DocumentSpan
from megatron_core.data.indexed import IndexedDataset, idx_path
from megatron_core.errors import CorpusError

_VERSION = 1
_SEPARATE_BELOW = 0.8  # of an epoch's samples: a smaller last epoch is shuffled apart
_SURPLUS = 0.005  # more samples than its share are made of each blended source


class MegatronOrder:
    """What Megatron-LM's ``GPTDataset``, or a ``BlendedDataset`` of several, reads as sample k.

    With one source there is no blend. Sources are blended in the order of their names.
    """

    def __init__(
        self,
        streams: Mapping[str, IndexedDataset],
        weights: Mapping[str, float],
        *,
        length: int,
        samples: int,
        seed: int,
        cache: IndexCache | None = None,
    ) -> None:
        """
        Args:
            streams: By source.
            weights: Share of the samples that each source gives, up to a common factor.
            length: Tokens of a sequence, without the one after it.
            samples: How many the training takes.
            seed: Of every shuffle.
            cache: Keeps the arrays.

        Raises:
            CorpusError: a source is missing or has no sequence.
        """
        cache = cache or IndexCache(None)
        counts = {name: (len(stream.tokens) - 1) // length for name, stream in streams.items()}
        weights = require_sources(dict(sorted(weights.items())), counts)
        self.streams, self.sources = streams, list(weights)
        asked = [samples]
        self._blend: Arrays | None = None
        if len(weights) > 1:
            shares = normalize(list(weights.values()))
            wanted = [math.ceil(samples * share) for share in shares]
            asked = [math.ceil(count * (1 + _SURPLUS)) for count in wanted]
            self._blend = cache.load(
                "blend", [], {"version": _VERSION, "weights": shares, "samples": sum(wanted)},
                lambda: blend_indices(shares, sum(wanted)),
            )  # fmt: skip
        self._indices = [
            self._load(cache, streams[name], length, count, seed)
            for name, count in zip(self.sources, asked, strict=True)
        ]
        self._require_enough()

    def _load(
        self, cache: IndexCache, stream: IndexedDataset, length: int, samples: int, seed: int
    ) -> Arrays:
        recipe = {"version": _VERSION, "length": length, "samples": samples, "seed": seed}
        return cache.load(
            "megatron", [idx_path(stream.prefix)], recipe,
            lambda: gpt_indices(stream.lengths, length=length, samples=samples, seed=seed),
        )  # fmt: skip

    def _require_enough(self) -> None:
        if self._blend is None:
            return
        taken = np.bincount(self._blend["source"], minlength=len(self.sources))
        for name, count, indices in zip(self.sources, taken, self._indices, strict=True):
            if count > len(indices["shuffle"]):
                raise CorpusError(
                    f"the blend takes {count} samples of source {name}, which Megatron's surplus "
                    f"of {_SURPLUS:.1%} does not cover: use `order: permuted`, or other weights"
                )

    def locate(self, sample: int) -> list[DocumentSpan]:
        """What global sample number ``sample``, counted from 0, is made of, in its order."""
        which = 0
        if self._blend is not None:
            which, sample = int(self._blend["source"][sample]), int(self._blend["sample"][sample])
        name, indices = self.sources[which], self._indices[which]
        stream, item = self.streams[name], int(indices["shuffle"][sample])
        (place, offset), (last, end) = indices["sample"][item : item + 2].tolist()
        spans = []
        for at in range(place, last + 1):
            document = int(indices["document"][at])
            first = offset if at == place else 0
            stop = end + 1 if at == last else int(stream.lengths[document])
            if stop > first:
                start = int(stream.offsets[document]) // stream.dtype.itemsize
                spans.append(DocumentSpan(name, start + first, stop - first))
        return spans


def gpt_indices(lengths: NDArray[Any], *, length: int, samples: int, seed: int) -> Arrays:
    """The arrays ``document``, ``sample`` and ``shuffle`` of one source.

    Args:
        lengths: int32 ``[documents]``, tokens of each.
        length: Tokens of a sample, without the one after it.
        samples: Asked for; there may be more.
        seed: Of the shuffles.
    """
    random = np.random.RandomState(seed)
    lengths = np.array(lengths, dtype=np.int32)
    tokens = int(lengths.sum(dtype=np.int64))
    epochs = max(1, -(-(samples * length + 1) // tokens))
    before_last = ((epochs - 1) * tokens - 1) // length
    apart = epochs > 1 and samples - before_last < int(
        _SEPARATE_BELOW * ((tokens - 1) // length)
    )  # fmt: skip
    together = epochs - 1 if apart else epochs
    document = np.concatenate(
        [
            _shuffled(np.tile(np.arange(len(lengths), dtype=np.int32), times), random)
            for times in ([together, 1] if apart else [together])
        ]
    )
    sample = sample_index(lengths, document, length, epochs * tokens)
    total = len(sample) - 1
    kind = np.uint32 if total < np.iinfo(np.uint32).max - 1 else np.int64
    edges = [0, before_last, total] if apart else [0, total]
    shuffle = np.concatenate(
        [_shuffled(np.arange(start, stop, dtype=kind), random) for start, stop in pairwise(edges)]
    )
    return {"document": document, "sample": sample, "shuffle": shuffle}


def _shuffled(x: NDArray[Any], random: np.random.RandomState) -> NDArray[Any]:
    random.shuffle(x)
    return x


def sample_index(
    lengths: NDArray[np.int32], document: NDArray[np.int32], length: int, tokens: int
) -> NDArray[Any]:
    """Where token ``j · length`` of the ``tokens`` in all documents lies, for each j there is.

    Returns:
        ``[samples + 1, 2]``: place in ``document``, and token in the document there; int32 where
        that holds both.
    """
    largest = max(len(document), int(lengths.max(initial=0)))
    kind = np.int32 if largest <= np.iinfo(np.int32).max else np.int64
    index = np.zeros(((tokens - 1) // length + 1, 2), dtype=kind)
    _fill_sample_index(lengths, document, length, index)
    return index


@compiled
def _fill_sample_index(lengths: Any, document: Any, length: int, index: Any) -> None:
    row, start = 1, 0  # row 0 is the first document's first token, also when it has none
    for place in range(len(document)):
        end = start + lengths[document[place]]
        while row < len(index) and row * length < end:
            index[row, 0] = place
            index[row, 1] = row * length - start
            row += 1
        start = end


def normalize(weights: list[float]) -> list[float]:
    """Weights that add up to one, in numpy's own rounding."""
    wide = np.array(weights, dtype=np.float64)
    return [float(w) for w in wide / np.sum(wide)]


def blend_indices(weights: list[float], samples: int) -> Arrays:
    """The ``source`` of each sample, int16, and which ``sample`` of that source it is, int64.

    Sample i is of the source whose ``weight · max(i, 1)`` is furthest above what it has given;
    of equal ones the first.
    """
    source, sample = np.empty(samples, dtype=np.int16), np.empty(samples, dtype=np.int64)
    _fill_blend(np.array(weights, dtype=np.float64), source, sample)
    return {"source": source, "sample": sample}


@compiled
def _fill_blend(weights: Any, source: Any, sample: Any) -> None:
    given = np.zeros(len(weights), dtype=np.int64)
    for i in range(len(source)):
        chosen, furthest = 0, -np.inf
        for number in range(len(weights)):
            behind = weights[number] * max(i, 1) - given[number]
            if behind > furthest:
                chosen, furthest = number, behind
        source[i], sample[i] = chosen, given[chosen]
        given[chosen] += 1
