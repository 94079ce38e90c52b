"""Next-token prediction, and prediction of masked tokens, over sequences of documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.config import PredictionConfig
from megatron_core.data.datasets.fingerprints import IndexCache
from megatron_core.data.datasets.masking import mask_tokens
from megatron_core.data.datasets.megatron import MegatronOrder
from megatron_core.data.datasets.order import MixedOrder, spread
from megatron_core.data.datasets.packing import PackedDocuments
from megatron_core.data.datasets.spans import (
    NO_DOCUMENT,
    DocumentSpan,
    Frame,
    SampleOrder,
    Sequences,
    read_spans,
)
from megatron_core.data.datasets.windows import TokenWindows, open_streams
from megatron_core.data.indexed import IndexedDataset
from megatron_core.data.vocabulary import Vocabulary
from megatron_core.parallel.batch import Batch
from megatron_core.trainer.objective import ignore, padded_places

_HELDOUT_SEQUENCES = 64


class LanguageObjective:
    """Each token of a sequence given those before it."""

    shared = 1  # the token after a sequence is a target too
    frame: Frame | None = None

    def __init__(
        self, tokens: Path, config: PredictionConfig, cache: IndexCache | None = None
    ) -> None:
        """Read ``tokens/train`` and ``tokens/heldout``.

        Raises:
            CorpusError: a source is missing or fills no sequence.
        """
        self.config, self.cache = config, cache or IndexCache(None)
        self.length = config.sequence_length
        self.streams = open_streams(tokens / "train")
        self.heldout_streams = open_streams(tokens / "heldout")
        self.sequences = self._sequences(self.streams)
        self.heldout_sequences = self._sequences(self.heldout_streams)
        self.order = self._order()
        self.held = spread(self.heldout_sequences, _HELDOUT_SEQUENCES)

    def _sequences(self, streams: Mapping[str, IndexedDataset]) -> Sequences:
        frame, each = (2, self.frame.each_document) if self.frame else (0, False)
        capacity = self.length + self.shared - (0 if each else frame)
        if self.config.packing == "concatenate":
            return TokenWindows(streams, capacity - self.shared, shared=self.shared)
        return PackedDocuments(
            streams, capacity, shared=self.shared, frame=frame * each, cache=self.cache
        )

    def _order(self) -> SampleOrder:
        config = self.config
        if config.order == "permuted":
            return MixedOrder(self.sequences, config.sources, config.seed)
        return MegatronOrder(
            self.streams, config.sources, length=self.length,
            samples=config.steps * config.batch.sequences, seed=config.seed, cache=self.cache,
        )  # fmt: skip

    def _read(
        self, streams: Mapping[str, IndexedDataset], spans: Sequence[Sequence[DocumentSpan]]
    ) -> tuple[Tensor, Tensor]:
        return read_spans(streams, spans, self.length + self.shared, self.frame)

    def locate(self, sample: int) -> list[DocumentSpan]:
        """Which tokens of which documents global sample number ``sample``, from 0, is made of."""
        return self.order.locate(sample)

    def read(self, samples: Sequence[int]) -> Batch:
        read = self._read(self.streams, [self.locate(k) for k in samples])
        return self._batch(*read, samples)

    def heldout(self, microbatch: int, multiple: int) -> list[Callable[[], Batch]]:
        return [
            partial(self._heldout, rows)
            for rows in padded_places(len(self.held), microbatch, multiple)
        ]

    def _heldout(self, rows: Sequence[int]) -> Batch:
        read = self._read(self.heldout_streams, [self.held[row] for row in rows])
        batch = self._batch(*read, rows)
        targets = ignore(batch.targets.T, rows).T
        return replace(batch, targets=targets, count=int((targets != IGNORED).sum()))

    def _batch(self, tokens: Tensor, documents: Tensor, samples: Sequence[int]) -> Batch:
        """Nothing is to be predicted of padding, nor of another document than is seen."""
        before, after = documents[:, :-1], documents[:, 1:]
        reset = self.config.reset_at_documents
        ignored = (after == NO_DOCUMENT) | (after != before) if reset else after == NO_DOCUMENT
        targets = tokens[:, 1:].masked_fill(ignored, IGNORED)
        count = int((targets != IGNORED).sum())
        return Batch(tokens[:, :-1], targets, count, documents=before if reset else None)


class MaskedObjective(LanguageObjective):
    """Some tokens of a sequence given the others."""

    shared = 0
    pairs = False  # whether a sequence is two segments

    def __init__(
        self, tokens: Path, config: PredictionConfig, vocabulary: int,
        cache: IndexCache | None = None,
    ) -> None:  # fmt: skip
        """As the other; ``vocabulary`` is the model's.

        Raises:
            CorpusError: the tokenizer lacks a special token that the recipe asks for.
        """
        self.vocabulary = vocabulary
        self.special: tuple[int, ...] = ()
        self.begins_word: Tensor | None = None
        masking = config.masking
        if masking.token is not None:
            self.mask = masking.token
        if masking.token is None or masking.whole_words or masking.framed:
            known = Vocabulary.read(tokens)
            self.vocabulary, self.special = known.size, tuple(known.special.values())
            if masking.token is None:
                self.mask = known.require("mask")
            if masking.whole_words:
                self.begins_word = torch.from_numpy(known.begins_word)
            if masking.framed:
                edges = known.require("cls"), known.require("sep")
                self.frame = Frame(*edges, each_document=config.reset_at_documents, pair=self.pairs)
        super().__init__(tokens, config, cache)

    def _batch(self, tokens: Tensor, documents: Tensor, samples: Sequence[int]) -> Batch:
        padding = documents == NO_DOCUMENT
        begins = None
        if self.begins_word is not None:
            begins = self.begins_word[tokens]
            begins[:, 1:] |= documents[:, 1:] != documents[:, :-1]
        inputs, targets = mask_tokens(
            tokens, samples, config=self.config.masking, mask=self.mask,
            vocabulary=self.vocabulary, seed=self.config.seed, begins_word=begins,
            eligible=~(padding | torch.isin(tokens, torch.tensor(self.special))),
        )  # fmt: skip
        # A document that sees all others must still not see padding.
        apart = documents if self.config.reset_at_documents else documents.clamp(max=0)
        padded = self.config.packing == "best_fit" or self.pairs
        return Batch(
            inputs, targets, int((targets != IGNORED).sum()),
            documents=apart if padded or self.config.reset_at_documents else None,
        )  # fmt: skip
