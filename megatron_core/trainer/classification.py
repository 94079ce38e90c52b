"""Classification of short texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.data.datasets.order import Mixture
from megatron_core.model import Classifier
from megatron_core.parallel.engine import Batch
from megatron_core.trainer.objective import ignore, padded_places

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
    """The class of each example, passes over the examples in a permuted order."""

    def __init__(self, train: Examples, test: Examples, *, seed: int) -> None:
        self.train, self.test = train, test
        self.order = Mixture({"train": len(train)}, {"train": 1.0}, seed)

    def read(self, samples: Sequence[int]) -> Batch:
        return _batch(self.train, [self.order.item(k)[1] for k in samples])

    def heldout(self, microbatch: int, multiple: int) -> list[Callable[[], Batch]]:
        return [
            partial(_batch, self.test, rows)
            for rows in padded_places(len(self.test), microbatch, multiple)
        ]


def _batch(examples: Examples, rows: Sequence[int]) -> Batch:
    taken = torch.tensor(rows)
    classes = ignore(examples.classes[taken], rows)
    targets = torch.stack([classes, examples.lengths[taken]])
    count = int((classes != IGNORED).sum())
    return Batch(examples.tokens[taken], targets, count, by_position=False)


@torch.no_grad()
def predict(model: Classifier, examples: Examples) -> list[int]:
    """The likeliest class of each example, by a whole model."""
    parts = torch.arange(len(examples)).split(_BATCH)  # type: ignore[no-untyped-call]
    logits = [model(examples.tokens[rows], examples.lengths[rows]) for rows in parts]
    return [int(row) for row in torch.cat(logits).argmax(dim=-1)]
