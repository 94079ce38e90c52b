"""Classification of short texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels.cross_entropy import cross_entropy_sum
from megatron_core.data.order import Mixture
from megatron_core.trainer.objective import LossSum

_BATCH = 64


@dataclass(frozen=True)
class Examples:
    """Padded texts with their classes.

    Attributes:
        tokens: int64 ``[examples, length]``, padded on the right with 0.
        lengths: int64 ``[examples]``, real tokens.
        classes: int64 ``[examples]``.
    """

    tokens: Tensor
    lengths: Tensor
    classes: Tensor

    @classmethod
    def of(cls, encoded: Sequence[Sequence[int]], classes: Sequence[int], length: int) -> Examples:
        """Pad or cut each text of token ids to ``length``."""
        tokens = torch.zeros(len(encoded), length, dtype=torch.int64)
        for row, ids in enumerate(encoded):
            kept = torch.tensor(ids[:length], dtype=torch.int64)
            tokens[row, : len(kept)] = kept
        lengths = torch.tensor([max(1, min(len(ids), length)) for ids in encoded])
        return cls(tokens, lengths, torch.tensor(classes, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.classes)


class ClassificationObjective:
    """Cross-entropy of the class, passes over the examples in a permuted order."""

    def __init__(self, train: Examples, test: Examples, *, seed: int, device: torch.device) -> None:
        self.train, self.test, self.device = train, test, device
        self.order = Mixture({"train": len(train)}, {"train": 1.0}, seed)

    def loss(self, model: nn.Module, samples: Sequence[int]) -> LossSum:
        rows = torch.tensor([self.order.locate(k)[1] for k in samples])
        logits = _forward(model, self.train, rows, self.device)
        classes = self.train.classes[rows].to(self.device)
        return LossSum(cross_entropy_sum(logits, classes), len(rows))

    @torch.no_grad()
    def heldout(self, model: nn.Module) -> LossSum:
        logits = class_logits(model, self.test, self.device)
        return LossSum(cross_entropy_sum(logits, self.test.classes), len(self.test))


def predict(model: nn.Module, examples: Examples, device: torch.device) -> list[int]:
    """The likeliest class of each example."""
    return [int(row) for row in class_logits(model.eval(), examples, device).argmax(dim=-1)]


@torch.no_grad()
def class_logits(model: nn.Module, examples: Examples, device: torch.device) -> Tensor:
    """Logits ``[examples, classes]``, fp32 on the CPU."""
    parts = torch.arange(len(examples)).split(_BATCH)  # type: ignore[no-untyped-call]
    return torch.cat([_forward(model, examples, rows, device).float().cpu() for rows in parts])


def _forward(model: nn.Module, examples: Examples, rows: Tensor, device: torch.device) -> Tensor:
    logits: Tensor = model(examples.tokens[rows].to(device), examples.lengths[rows].to(device))
    return logits
