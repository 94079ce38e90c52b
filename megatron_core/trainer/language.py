"""Next-token prediction, and prediction of masked tokens, over sequences of documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

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
    SampleOrder,
    Sequences,
    read_spans,
)
from megatron_core.data.datasets.windows import TokenWindows, open_streams
from megatron_core.data.indexed import IndexedDataset
from megatron_core.parallel.engine import Batch
from megatron_core.trainer.objective import ignore, padded_places

_HELDOUT_SEQUENCES = 64


class LanguageObjective:
    """Each token of a sequence given those before it."""

    shared = 1  # the token after a sequence is a target too

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
        self.order = self._order()
        self.held = spread(self._sequences(self.heldout_streams), _HELDOUT_SEQUENCES)

    def _sequences(self, streams: Mapping[str, IndexedDataset]) -> Sequences:
        if self.config.packing == "concatenate":
            return TokenWindows(streams, self.length, shared=self.shared)
        return PackedDocuments(
            streams, self.length + self.shared, shared=self.shared, cache=self.cache
        )

    def _order(self) -> SampleOrder:
        config = self.config
        if config.order == "permuted":
            return MixedOrder(self._sequences(self.streams), config.sources, config.seed)
        return MegatronOrder(
            self.streams, config.sources, length=self.length,
            samples=config.steps * config.batch.sequences, seed=config.seed, cache=self.cache,
        )  # fmt: skip

    def read(self, samples: Sequence[int]) -> Batch:
        spans = [self.order.locate(k) for k in samples]
        return self._batch(*read_spans(self.streams, spans, self.length + self.shared), samples)

    def heldout(self, microbatch: int, multiple: int) -> list[Callable[[], Batch]]:
        return [
            partial(self._heldout, rows)
            for rows in padded_places(len(self.held), microbatch, multiple)
        ]

    def _heldout(self, rows: Sequence[int]) -> Batch:
        spans: list[Sequence[DocumentSpan]] = [self.held[row] for row in rows]
        read = read_spans(self.heldout_streams, spans, self.length + self.shared)
        batch = self._batch(*read, rows)
        targets = ignore(batch.targets.T, rows).T
        return Batch(batch.tokens, targets, int((targets != IGNORED).sum()))

    def _batch(self, tokens: Tensor, documents: Tensor, samples: Sequence[int]) -> Batch:
        targets = tokens[:, 1:].masked_fill(documents[:, 1:] == NO_DOCUMENT, IGNORED)
        return Batch(tokens[:, :-1], targets, int((targets != IGNORED).sum()))


class MaskedObjective(LanguageObjective):
    """Some tokens of a sequence given the others."""

    shared = 0

    def __init__(
        self, tokens: Path, config: PredictionConfig, vocabulary: int,
        cache: IndexCache | None = None,
    ) -> None:  # fmt: skip
        super().__init__(tokens, config, cache)
        self.vocabulary = vocabulary

    def _batch(self, tokens: Tensor, documents: Tensor, samples: Sequence[int]) -> Batch:
        inputs, targets = mask_tokens(
            tokens, samples,
            config=self.config.masking, vocabulary=self.vocabulary, seed=self.config.seed,
        )  # fmt: skip
        return Batch(inputs, targets, int((targets != IGNORED).sum()))
