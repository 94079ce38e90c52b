"""Next-token prediction, and prediction of masked tokens, over token windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.config import MaskingConfig
from megatron_core.data.masking import mask_tokens
from megatron_core.data.windows import TokenWindows, open_streams
from megatron_core.parallel.engine import Batch
from megatron_core.trainer.objective import ignore, padded_places

_HELDOUT_WINDOWS = 64


class LanguageObjective:
    """Each token of a window given those before it."""

    def __init__(
        self, tokens: Path, *, sequence_length: int, sources: Mapping[str, float], seed: int
    ) -> None:
        """Read ``tokens/train`` and ``tokens/heldout``.

        Raises:
            CorpusError: a source is missing or shorter than one window.
        """
        self.windows = TokenWindows(open_streams(tokens / "train"), sequence_length)
        self.order = self.windows.mixture(sources, seed)
        self.heldout_windows = TokenWindows(open_streams(tokens / "heldout"), sequence_length)

    def read(self, samples: Sequence[int]) -> Batch:
        return self._batch(self.windows.read([self.order.locate(k) for k in samples]), samples)

    def heldout(self, microbatch: int, multiple: int) -> list[Callable[[], Batch]]:
        places = self.heldout_windows.spread(_HELDOUT_WINDOWS)
        return [
            partial(self._heldout, places, rows)
            for rows in padded_places(len(places), microbatch, multiple)
        ]

    def _heldout(self, places: Sequence[tuple[str, int]], rows: Sequence[int]) -> Batch:
        batch = self._batch(self.heldout_windows.read([places[row] for row in rows]), rows)
        targets = ignore(batch.targets.T, rows).T
        return Batch(batch.tokens, targets, int((targets != IGNORED).sum()))

    def _batch(self, windows: Tensor, samples: Sequence[int]) -> Batch:
        targets = windows[:, 1:]
        return Batch(windows[:, :-1], targets, targets.numel())


class MaskedObjective(LanguageObjective):
    """Some tokens of a window given the others."""

    def __init__(
        self, tokens: Path, *, sequence_length: int, sources: Mapping[str, float], seed: int,
        masking: MaskingConfig, vocabulary: int,
    ) -> None:  # fmt: skip
        super().__init__(tokens, sequence_length=sequence_length, sources=sources, seed=seed)
        self.masking, self.vocabulary, self.seed = masking, vocabulary, seed

    def _batch(self, windows: Tensor, samples: Sequence[int]) -> Batch:
        inputs, targets = mask_tokens(
            windows[:, :-1], samples,
            config=self.masking, vocabulary=self.vocabulary, seed=self.seed,
        )  # fmt: skip
        return Batch(inputs, targets, int((targets != IGNORED).sum()))
