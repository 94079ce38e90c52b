"""Next-token prediction over token windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kernels.cross_entropy import cross_entropy_sum
from megatron_core.data.windows import TokenWindows, open_streams
from megatron_core.trainer.objective import LossSum

_HELDOUT_WINDOWS = 64
_HELDOUT_BATCH = 8


class LanguageObjective:
    """Cross-entropy of each token given those before it in its window."""

    def __init__(
        self,
        tokens: Path,
        *,
        sequence_length: int,
        sources: Mapping[str, float],
        seed: int,
        device: torch.device,
    ) -> None:
        """Read ``tokens/train`` and ``tokens/heldout``.

        Raises:
            CorpusError: a source is missing or shorter than one window.
        """
        self.device = device
        self.windows = TokenWindows(open_streams(tokens / "train"), sequence_length)
        self.order = self.windows.mixture(sources, seed)
        self.heldout_windows = TokenWindows(open_streams(tokens / "heldout"), sequence_length)

    def loss(self, model: nn.Module, samples: Sequence[int]) -> LossSum:
        return self._loss(model, self.windows.read([self.order.locate(k) for k in samples]))

    @torch.no_grad()
    def heldout(self, model: nn.Module) -> LossSum:
        places = self.heldout_windows.spread(_HELDOUT_WINDOWS)
        total, count = torch.zeros((), dtype=torch.float64), 0
        for start in range(0, len(places), _HELDOUT_BATCH):
            part = self._loss(
                model, self.heldout_windows.read(places[start : start + _HELDOUT_BATCH])
            )
            total, count = total + part.total.double().cpu(), count + part.count
        return LossSum(total, count)

    def _loss(self, model: nn.Module, windows: Tensor) -> LossSum:
        windows = windows.to(self.device, non_blocking=True)
        targets = windows[:, 1:]
        logits = model(windows[:, :-1].contiguous())
        return LossSum(cross_entropy_sum(logits, targets), targets.numel())
