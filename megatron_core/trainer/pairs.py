"""Prediction of masked tokens, and of which of two kinds each pair of segments is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from megatron_core.config import PredictionConfig
from megatron_core.data.datasets.fingerprints import IndexCache
from megatron_core.data.datasets.pairs import DocumentPieces, Kind, Pair, Pairs
from megatron_core.data.datasets.spans import DocumentSpan, Sequences
from megatron_core.data.indexed import IndexedDataset
from megatron_core.data.vocabulary import Vocabulary
from megatron_core.parallel.batch import Batch
from megatron_core.trainer.language import MaskedObjective
from megatron_core.trainer.objective import ignore


class PairObjective(MaskedObjective):
    """Masked tokens of two segments, and whether the second follows the first."""

    pairs = True

    def __init__(
        self, tokens: Path, config: PredictionConfig, vocabulary: int,
        cache: IndexCache | None = None,
    ) -> None:  # fmt: skip
        """As the other; the recipe's ``masking.pairs`` says which pairs."""
        super().__init__(tokens, config, vocabulary, cache)
        known, kind = Vocabulary.read(tokens), cast(Kind, config.masking.pairs)
        self._cutter = Pairs(self.streams, self.sequences, known, kind=kind, seed=config.seed)
        heldout = Pairs(
            self.heldout_streams, self.heldout_sequences, known, kind=kind, seed=config.seed
        )
        pairs = [heldout.cut(piece, row) for row, (piece,) in enumerate(self.held)]
        self.held = [pair.segments for pair in pairs]
        self._heldout_labels = _labels(pairs)

    def _sequences(self, streams: Mapping[str, IndexedDataset]) -> Sequences:
        return DocumentPieces(streams, self.length)

    def _pair(self, sample: int) -> Pair:
        (piece,) = self.order.locate(sample)
        return self._cutter.cut(piece, sample)

    def locate(self, sample: int) -> list[DocumentSpan]:
        """The two segments of global sample number ``sample``, from 0, as they stand in it."""
        return self._pair(sample).segments

    def read(self, samples: Sequence[int]) -> Batch:
        pairs = [self._pair(sample) for sample in samples]
        read = self._read(self.streams, [pair.segments for pair in pairs])
        return replace(self._batch(*read, samples), labels=_labels(pairs))

    def _heldout(self, rows: Sequence[int]) -> Batch:
        labels = ignore(self._heldout_labels[torch.tensor(rows)], rows)
        return replace(super()._heldout(rows), labels=labels)

    def _batch(self, tokens: Tensor, documents: Tensor, samples: Sequence[int]) -> Batch:
        batch = super()._batch(tokens, documents, samples)
        return replace(batch, types=documents.clamp(min=0))  # padding is of the first


def _labels(pairs: Sequence[Pair]) -> Tensor:
    return torch.tensor([pair.label for pair in pairs], dtype=torch.int64)
