"""A sequence classifier on top of a language model's final hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from kernels.cross_entropy import cross_entropy_sum
from kernels.precision import wide
from megatron_core.config import ModelConfig
from megatron_core.model.head import ClassHead
from megatron_core.model.language_model import LanguageModel
from megatron_core.model.linear import collect
from megatron_core.model.place import ALONE, Place, Share


class Classifier(nn.Module):
    """Mean of the final hidden states over the real tokens, then a linear layer."""

    def __init__(self, config: ModelConfig, classes: int, share: Share | None = None) -> None:
        super().__init__()
        self.config = config
        self.decoder = LanguageModel(config, share)
        self.share = self.decoder.share
        if self.share.last:
            # A classifier has no use for what makes other logits.
            del self.decoder.head
            self.decoder.transform = self.decoder.pooler = self.decoder.pair_head = None
            self.classify = ClassHead(config.hidden, classes)

    @property
    def tied(self) -> dict[str, str]:
        """No tensor is another's."""
        return {}

    def embed(self, tokens: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
        """As the language model."""
        return self.decoder.embed(tokens, places)

    def blocks(self, chunks: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
        """As the language model."""
        return self.decoder.blocks(chunks, places)

    def logits(self, chunks: Sequence[Tensor], lengths: Tensor, places: Sequence[Place]) -> Tensor:
        """Logits ``[b, classes]`` of the residual stream of whole sequences, in one chunk."""
        ((x,), (place,)) = self.decoder.normed(chunks, places), places
        hidden = wide(collect(x, self.share.tensor))  # a sum over a text may overflow a half
        positions = torch.arange(hidden.shape[0], device=hidden.device)
        real = (positions[:, None] < lengths)[..., None].to(hidden.dtype)
        mean = (hidden * real).sum(dim=0) / lengths[:, None].to(hidden.dtype)
        return cast(Tensor, self.classify(mean.to(x.dtype), place))

    def losses(
        self, chunks: Sequence[Tensor], targets: Sequence[Tensor], places: Sequence[Place]
    ) -> list[Tensor]:
        """The summed cross-entropy; ``targets`` is int64 ``[2, b]``: classes and lengths."""
        classes, lengths = targets[0]
        return [cross_entropy_sum(self.logits(chunks, lengths, places), classes)]

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits ``[b, classes]``; whole models only.

        Args:
            tokens: int64 ``[b, length]``, padded on the right.
            lengths: int64 ``[b]``, real tokens of each row, at least 1.
        """
        return self.logits(self.blocks(self.embed([tokens.T], ALONE), ALONE), lengths, ALONE)
