"""How long it takes to order ten million documents, beside Megatron-Core where it is installed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.tables import write_table
from megatron_core.data.datasets.megatron import blend_indices, gpt_indices, normalize, sample_index
from megatron_core.data.datasets.order import Mixture
from megatron_core.data.datasets.packing import best_fit, cut_documents

_DOCUMENTS = 10_000_000
_LENGTH = 2048
_REPEATS = 3


def run() -> None:
    """Time what is computed once for a training, each step warm, the best of three."""
    random = np.random.RandomState(0)
    lengths = np.minimum(random.lognormal(6.0, 1.0, _DOCUMENTS) + 2, 100_000).astype(np.int32)
    tokens = int(lengths.sum(dtype=np.int64))
    samples = (tokens - 1) // _LENGTH
    document = random.permutation(_DOCUMENTS).astype(np.int32)
    shares, blended = normalize([5.0, 3.0, 1.0, 1.0]), 10_000_000
    peer = _Megatron()
    rows = [
        _row(
            "sample index of one epoch",
            lambda: sample_index(lengths, document, _LENGTH, tokens),
            peer and (lambda: peer.sample_index(lengths, document, _LENGTH, tokens)),
        ),
        _row(
            "document, sample and shuffle index",
            lambda: gpt_indices(lengths, length=_LENGTH, samples=samples, seed=1),
            peer and (lambda: peer.gpt_indices(lengths, _LENGTH, samples, 1)),
        ),
        _row(
            f"blend of 4 sources, {blended:,} samples",
            lambda: blend_indices(shares, blended),
            peer and (lambda: peer.blend(shares, blended)),
        ),
    ]
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)[:-1]])
    _, pieces = cut_documents(starts, lengths.astype(np.int64), _LENGTH + 1, 1)
    bins = best_fit(pieces, _LENGTH + 1)
    padding = 1 - pieces.sum() / ((int(bins.max()) + 1) * (_LENGTH + 1))
    rows.append(_row("best-fit packing", lambda: best_fit(pieces, _LENGTH + 1), None))
    mixture = Mixture({"a": samples}, {"a": 1.0}, 1)
    seconds = _best(lambda: [mixture.item(k) for k in range(10_000)])
    rows.append(["permuted order, a sample where it is read", f"{seconds / 1e4:.1e}", "", ""])
    write_table(
        "data_order",
        "python -m benchmarks.data order",
        ["10 M documents", "seconds", "Megatron-Core, seconds", "ratio"],
        rows,
        note=f"{tokens:,} tokens in sequences of {_LENGTH}; best fit leaves {padding:.2%} padding. "
        + (peer.version if peer else "Megatron-Core is not installed here."),
    )


class _Megatron:
    """Megatron-Core's own functions; false where it is not installed."""

    def __init__(self) -> None:
        try:
            import megatron.core
            from megatron.core.datasets import gpt_dataset, helpers
        except ImportError:
            self.version = ""
            return
        self.version = f"megatron-core {megatron.core.__version__}, its C++ helpers as installed."
        self._data, self._helpers = gpt_dataset, helpers

    def __bool__(self) -> bool:
        return bool(self.version)

    def sample_index(self, lengths: Any, document: Any, length: int, tokens: int) -> Any:
        return self._helpers.build_sample_idx(lengths, document, length, 1, tokens)

    def gpt_indices(self, lengths: Any, length: int, samples: int, seed: int) -> Any:
        """As ``GPTDataset`` does for one epoch."""
        random = np.random.RandomState(seed)
        documents = np.arange(len(lengths), dtype=np.int32)
        document = self._data._build_document_index(documents, 1, random, False)
        sample = self.sample_index(lengths, document, length, int(np.sum(lengths)))
        return self._data._build_shuffle_index(len(sample) - 1, len(sample) - 1, random)

    def blend(self, shares: list[float], samples: int) -> None:
        source, sample = np.zeros(samples, np.int16), np.zeros(samples, np.int64)
        self._helpers.build_blending_indices(
            source, sample, np.array(shares), len(shares), samples, False
        )


def _row(name: str, ours: Callable[[], Any], theirs: Callable[[], Any] | Any) -> list[str]:
    seconds = _best(ours)
    if not theirs:
        return [name, f"{seconds:.2f}", "", ""]
    other = _best(theirs)
    return [name, f"{seconds:.2f}", f"{other:.2f}", f"{seconds / other:.2f}"]


def _best(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of a few calls, after one that compiles."""
    work()
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
