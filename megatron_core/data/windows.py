"""Token streams cut into the windows a language model trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from megatron_core.data.indexed import IndexedDataset
from megatron_core.data.order import Mixture
from megatron_core.errors import CorpusError

_SUFFIX = "_text_document"


def open_streams(folder: Path) -> dict[str, IndexedDataset]:
    """The indexed datasets in ``folder`` by source, in the order of the names."""
    prefixes = sorted(folder.glob(f"*{_SUFFIX}.idx"))
    if not prefixes:
        raise CorpusError(f"{folder} has no indexed datasets: run `reforge tokenize`")
    return {
        path.stem.removesuffix(_SUFFIX): IndexedDataset(path.with_suffix("")) for path in prefixes
    }


class TokenWindows:
    """Each source's documents end to end, cut every ``length`` tokens.

    Window i holds ``length + 1`` tokens: the last one is the target of the last position and the
    first of window i + 1.
    """

    def __init__(self, streams: Mapping[str, IndexedDataset], length: int) -> None:
        self.streams = dict(streams)
        self.length = length
        self.counts = {
            name: max(0, len(stream.tokens) - 1) // length for name, stream in streams.items()
        }

    def read(self, places: Sequence[tuple[str, int]]) -> Tensor:
        """Windows as int64 ``[len(places), length + 1]``."""
        rows = []
        for name, window in places:
            start = window * self.length
            rows.append(self.streams[name].tokens[start : start + self.length + 1])
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def mixture(self, weights: Mapping[str, float], seed: int) -> Mixture:
        """The training order; empty ``weights`` take every source once per epoch.

        Raises:
            CorpusError: a named source is missing or too short for one window.
        """
        wanted = dict(weights) or {name: 1.0 for name, count in self.counts.items() if count}
        for name in wanted:
            if not self.counts.get(name):
                have = len(self.streams[name].tokens) if name in self.streams else 0
                raise CorpusError(
                    f"source {name} has {have} tokens, less than one window of {self.length + 1}: "
                    "ingest more text or lower sequence_length"
                )
        if not wanted:
            raise CorpusError(
                f"no source fills one window of {self.length + 1} tokens: ingest more text or "
                "lower sequence_length"
            )
        return Mixture(self.counts, wanted, seed)

    def spread(self, count: int) -> list[tuple[str, int]]:
        """At most ``count`` windows, evenly over the sources and along each: a fixed sample."""
        places = [(name, i) for name, windows in self.counts.items() for i in range(windows)]
        count = min(count, len(places))
        return [places[i * len(places) // count] for i in range(count)]
