"""The losses of both objectives against sums over a table of logits."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from megatron_core.trainer import ClassificationObjective, LanguageObjective
from megatron_core.trainer.classification import Examples, class_logits

CPU = torch.device("cpu")


def log_softmax(row: list[float]) -> list[float]:
    total = math.fsum(math.exp(x) for x in row)
    return [x - math.log(total) for x in row]


class Bigrams(nn.Module):
    """Logits that depend on the last token alone."""

    def __init__(self, vocabulary: int = 64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(vocabulary, vocabulary, generator=generator))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]

    def exact(self, windows: list[list[int]]) -> float:
        table = [log_softmax(row) for row in self.table.tolist()]
        return -math.fsum(table[a][b] for row in windows for a, b in pairwise(row))


def test_language(tokens: Path) -> None:
    objective = LanguageObjective(tokens, sequence_length=16, sources={}, seed=1, device=CPU)
    model, samples = Bigrams(), range(40, 47)
    part = objective.loss(model, samples)
    windows = objective.windows.read([objective.order.locate(k) for k in samples]).tolist()
    assert part.count == 7 * 16
    assert part.total.requires_grad
    assert part.total.item() == pytest.approx(model.exact(windows), rel=1e-6)


def test_language_heldout(tokens: Path) -> None:
    objective = LanguageObjective(tokens, sequence_length=16, sources={}, seed=1, device=CPU)
    model = Bigrams()
    part = objective.heldout(model)
    windows = [
        row
        for source in ("books", "notes")
        for row in objective.heldout_windows.read(
            [(source, i) for i in range(objective.heldout_windows.counts[source])]
        ).tolist()
    ]
    assert len(windows) < 64  # so every window is taken
    assert part.count == len(windows) * 16
    assert float(part.total) == pytest.approx(model.exact(windows), rel=1e-6)
    assert not part.total.requires_grad


class LastTokens(nn.Module):
    """Logits that are the number of real tokens, and the sum of them over ten."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return torch.stack([lengths.float(), tokens.sum(1) / 10, 0 * lengths.float()], dim=1)


TEXTS = [[1, 2], [9, 9, 9, 9, 9, 9], [], [4, 5, 6]]
CLASSES = [0, 1, 2, 1]
ROWS = [[2.0, 0.3, 0.0], [4.0, 3.6, 0.0], [1.0, 0.0, 0.0], [3.0, 1.5, 0.0]]


def examples() -> Examples:
    return Examples.of(TEXTS, CLASSES, length=4)


def test_examples_are_padded_and_cut() -> None:
    made = examples()
    assert made.tokens.tolist() == [[1, 2, 0, 0], [9, 9, 9, 9], [0, 0, 0, 0], [4, 5, 6, 0]]
    assert made.lengths.tolist() == [2, 4, 1, 3]  # an empty text counts its padding once
    assert made.classes.tolist() == CLASSES
    assert len(made) == 4


def test_classification() -> None:
    objective = ClassificationObjective(examples(), examples(), seed=3, device=CPU)
    exact = [-log_softmax(row)[label] for row, label in zip(ROWS, CLASSES, strict=True)]
    part = objective.loss(LastTokens(), range(8))  # two passes
    assert part.count == 8
    assert float(part.total) == pytest.approx(2 * sum(exact), rel=1e-6)
    rows = [objective.order.locate(k)[1] for k in (1, 2)]
    part = objective.loss(LastTokens(), [1, 2])
    assert float(part.total) == pytest.approx(sum(exact[row] for row in rows), rel=1e-6)


def test_classification_heldout_takes_every_example() -> None:
    test = Examples.of(TEXTS * 40, CLASSES * 40, length=4)
    objective = ClassificationObjective(examples(), test, seed=3, device=CPU)
    logits = class_logits(LastTokens(), test, CPU)
    torch.testing.assert_close(logits, torch.tensor(ROWS * 40))
    exact = [-log_softmax(row)[label] for row, label in zip(ROWS, CLASSES, strict=True)]
    part = objective.heldout(LastTokens())
    assert part.count == 160
    assert float(part.total) == pytest.approx(40 * sum(exact), rel=1e-6)
