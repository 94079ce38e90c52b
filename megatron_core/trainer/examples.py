"""Training on the examples of a task, in passes over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.data.datasets.order import Mixture
from megatron_core.data.datasets.spans import NO_DOCUMENT
from megatron_core.parallel.batch import Batch
from megatron_core.parallel.engine import Engine
from megatron_core.trainer.objective import padded_places


@dataclass(frozen=True)
class Examples:
    """Padded sequences and what is to be told of them.

    Attributes:
        tokens: int64 ``[n, length]``.
        documents: int64 ``[n, length]``: which text of its sequence each token is of,
            ``NO_DOCUMENT`` where it is padding.
        targets: int64 ``[n, length]``, or as the model's ``losses`` takes them, ``[…, n]``.
        by_position: Which of the two.
        types: int64 ``[n, length]``: 0 in the first segment, 1 in the second; None without any.
        together: Neighbours that are one example, such as the two of a preference.
    """

    tokens: Tensor
    documents: Tensor
    targets: Tensor
    by_position: bool = False
    types: Tensor | None = None
    together: int = 1

    def __len__(self) -> int:
        """Examples."""
        return len(self.tokens) // self.together

    def behind(self, prompt: int) -> Examples:
        """The same with ``prompt`` positions before each sequence, for vectors that are learned."""
        if not prompt:
            return self

        def padded(x: Tensor, value: int) -> Tensor:
            return torch.nn.functional.pad(x, (prompt, 0), value=value)

        first = self.documents[:, :1].expand(-1, prompt)
        return replace(
            self,
            tokens=padded(self.tokens, 0),
            documents=torch.cat([first, self.documents], dim=1),
            targets=padded(self.targets, IGNORED) if self.by_position else self.targets,
            types=None if self.types is None else padded(self.types, 0),
        )

    def padded(self, length: int) -> Examples:
        """The same with padding at the end, to sequences of ``length``."""
        more = length - self.tokens.shape[1]

        def longer(x: Tensor, value: int) -> Tensor:
            return torch.nn.functional.pad(x, (0, more), value=value)

        return replace(
            self,
            tokens=longer(self.tokens, 0),
            documents=longer(self.documents, NO_DOCUMENT),
            targets=longer(self.targets, IGNORED) if self.by_position else self.targets,
            types=None if self.types is None else longer(self.types, 0),
        )

    def batch(self, rows: Sequence[int]) -> Batch:
        """Examples by number; nothing is to be told of those that are -1."""
        each = [max(row, 0) * self.together + k for row in rows for k in range(self.together)]
        filled = torch.tensor([row < 0 for row in rows]).repeat_interleave(self.together)
        documents = self.documents[each]
        if self.by_position:
            targets = self.targets[each].masked_fill(filled[:, None], IGNORED)
            count = int((targets != IGNORED).sum())
        else:
            nothing = torch.nan if self.targets.is_floating_point() else IGNORED
            targets = self.targets[..., each].clone()
            targets[..., filled] = nothing
            count = len(rows) - int(filled.sum()) // self.together
        whole = bool((documents == 0).all())  # a text that fills its sequence needs no mask
        return Batch(
            self.tokens[each], targets, count, by_position=self.by_position,
            documents=None if whole else documents,
            types=None if self.types is None else self.types[each],
        )  # fmt: skip


def tell(engine: Engine, examples: Examples) -> list[Tensor]:
    """What the model of ``engine`` tells of each example: the same on every rank, on the CPU.

    Returns:
        Of each the rows of the model's ``outputs`` that are its: one, or as many as sequences are
        together one example.
    """
    config, each = engine.config, examples.together
    batch, parts = config.batch.microbatch, config.grid.data
    rows = padded_places(len(examples), batch // each, parts)
    outputs = engine.outputs([partial(examples.batch, part) for part in rows])
    found: dict[int, Tensor] = {}
    for part, output in zip(rows, outputs, strict=True):
        found |= {row: output[n * each : (n + 1) * each] for n, row in enumerate(part)}
    return [found[row] for row in range(len(examples))]


class ExampleObjective:
    """The examples of ``train`` in passes, each in an order of its own.

    The sequences of an example have neighbouring sample numbers.
    """

    def __init__(self, train: Examples, test: Examples, *, seed: int) -> None:
        self.train, self.test = train, test
        self.order = Mixture({"train": len(train)}, {"train": 1.0}, seed)

    def read(self, samples: Sequence[int]) -> Batch:
        each = self.train.together
        return self.train.batch([self.order.item(k // each)[1] for k in samples[::each]])

    def heldout(self, microbatch: int, multiple: int) -> list[Callable[[], Batch]]:
        rows = padded_places(len(self.test), microbatch // self.test.together, multiple)
        return [partial(self.test.batch, part) for part in rows]
