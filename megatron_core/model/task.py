"""A language model with a head for a task in place of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from kernels.cross_entropy import cross_entropy_sum
from kernels.precision import wide
from megatron_core.config import ModelConfig
from megatron_core.model.head import ClassHead
from megatron_core.model.language_model import LanguageModel
from megatron_core.model.linear import collect
from megatron_core.model.place import ALONE, Place, Share


@dataclass(frozen=True)
class HeadSpec:
    """What a head reads of each sequence and what it tells.

    Attributes:
        kind: ``classes`` or a ``value`` of the sequence, ``tags`` of each token, or the first and
            last token of a ``span``.
        outputs: Numbers that it gives: as many as there are classes or tags, 1 for a value, 2 for
            a span.
        pooling: What it reads of a sequence: the mean of the real tokens, the first, the last real
            one, or the ``marks`` that come with the targets, end to end.
        marks: How many.
        prompt: Positions before the text that a soft prompt takes; marks are counted from there.
    """

    kind: Literal["classes", "value", "tags", "span"]
    outputs: int
    pooling: Literal["mean", "first", "last", "marks"] = "mean"
    marks: int = 0
    prompt: int = 0

    def described(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return asdict(self)


class TaskModel(nn.Module):
    """Final hidden states, and one linear layer on what the task needs of them.

    Sequences of ``tags`` may be cut into context chunks; other heads see them whole.
    """

    def __init__(self, config: ModelConfig, spec: HeadSpec, share: Share | None = None) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.backbone = LanguageModel(config, share)
        self.share = self.backbone.share
        if self.share.last:
            # A task has no use for what makes other logits.
            del self.backbone.head
            self.backbone.transform = self.backbone.pooler = self.backbone.pair_head = None
            self.head = ClassHead(config.hidden * max(spec.marks, 1), spec.outputs)

    @property
    def tied(self) -> dict[str, str]:
        """No tensor is another's."""
        return {}

    def embed(self, tokens: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
        """As the language model."""
        return self.backbone.embed(tokens, places)

    def blocks(self, chunks: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
        """As the language model."""
        return self.backbone.blocks(chunks, places)

    def outputs(
        self, chunks: Sequence[Tensor], targets: Sequence[Tensor], places: Sequence[Place]
    ) -> list[Tensor]:
        """Of each chunk the head's numbers: ``[b, outputs]``, or of each token ``[b, s, outputs]``.

        Args:
            targets: See :meth:`losses`; only their marks are read.
        """
        told = self._told(chunks, targets, places)
        return [y.transpose(0, 1) for y in told] if self._of_tokens else told

    @property
    def _of_tokens(self) -> bool:
        return self.spec.kind in ("tags", "span")

    def _told(
        self, chunks: Sequence[Tensor], targets: Sequence[Tensor], places: Sequence[Place]
    ) -> list[Tensor]:
        """As :meth:`outputs`, tokens first."""
        normed = self.backbone.normed(chunks, places)
        return [self._one(x, t, p) for x, t, p in zip(normed, targets, places, strict=True)]

    def _one(self, x: Tensor, targets: Tensor, place: Place) -> Tensor:
        hidden = collect(x, self.share.tensor)
        if not self._of_tokens:
            hidden = self._pooled(hidden[self.spec.prompt :], targets, place)
        return cast(Tensor, self.head(hidden, place))

    def _pooled(self, hidden: Tensor, targets: Tensor, place: Place) -> Tensor:
        """``[b, hidden · marks]`` of ``hidden [s, b, hidden]``."""
        pooling = self.spec.pooling
        if pooling == "first":
            return hidden[0]
        if pooling == "marks":
            return torch.cat([_at(hidden, row.clamp(min=0)) for row in targets[1:]], dim=-1)
        real = self._text(hidden, place)
        if pooling == "last":
            return _at(hidden, real.sum(dim=0) - 1)
        weights = real[..., None].to(torch.float32)  # a sum over a text may overflow a half
        mean = (wide(hidden) * weights).sum(dim=0) / weights.sum(dim=0)
        return mean.to(hidden.dtype)

    def losses(
        self, chunks: Sequence[Tensor], targets: Sequence[Tensor], places: Sequence[Place]
    ) -> list[Tensor]:
        """The summed loss of each chunk: cross-entropy in nats, or the squared error of a value.

        Args:
            targets: Of a sequence ``[1 + marks, b]``: its class or value, and the positions of the
                marks; of tags int64 ``[s, b]``; of a span int64 ``[2, b]``, its first and last
                position. A class, tag or position that is ``IGNORED`` and a value that is NaN do
                not count.
        """
        found = self._told(chunks, targets, places)
        return [self._loss(y, t, p) for y, t, p in zip(found, targets, places, strict=True)]

    def _loss(self, outputs: Tensor, targets: Tensor, place: Place) -> Tensor:
        kind = self.spec.kind
        if kind == "tags":
            return cross_entropy_sum(outputs, targets)
        if kind == "classes":
            return cross_entropy_sum(outputs, targets[0])
        if kind == "value":
            known = ~targets[0].isnan()  # what is not must be no NaN, or its gradient were one
            error = wide(outputs[:, 0]) - targets[0].nan_to_num().to(torch.float32)
            return error.square().where(known, 0.0).sum()
        outside = ~self._text(outputs, place)[..., None]
        outside[: self.spec.prompt] = True
        first, last = wide(outputs).masked_fill(outside, -torch.inf).unbind(dim=-1)
        return cross_entropy_sum(first.T, targets[0]) + cross_entropy_sum(last.T, targets[1])

    def _text(self, x: Tensor, place: Place) -> Tensor:
        """Which of the last ``s`` positions of each sequence are text: bool ``[s, b]``."""
        if place.documents is None:
            return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return place.documents.numbers[-len(x) :] >= 0

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, place: Place = ALONE[0]
    ) -> Tensor:
        """The head's numbers for int64 ``tokens [b, s]``; whole models only."""
        marks = torch.empty(1, len(tokens)) if targets is None else targets
        chunks = self.blocks(self.embed([tokens.T], [place]), [place])
        (found,) = self.outputs(chunks, [marks], [place])
        return found


def _at(hidden: Tensor, positions: Tensor) -> Tensor:
    """``[b, hidden]`` at one position of each sequence; its gradient has no sums to order."""
    index = positions[None, :, None].expand(1, -1, hidden.shape[-1])
    return hidden.gather(0, index)[0]
