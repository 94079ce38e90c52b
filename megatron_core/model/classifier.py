"""A sequence classifier on top of a decoder."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from megatron_core.config import ModelConfig
from megatron_core.model.language_model import LanguageModel


class Classifier(nn.Module):
    """Mean of the final hidden states over the real tokens, then a linear layer."""

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.decoder = LanguageModel(config)
        del self.decoder.head  # a classifier has no use for next-token logits
        self.classify = nn.Linear(config.hidden, classes)

    @property
    def tied(self) -> dict[str, str]:
        """No parameter shares another's storage."""
        return {}

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits ``[batch, classes]``.

        Args:
            tokens: int64 ``[batch, length]``, padded on the right.
            lengths: int64 ``[batch]``, real tokens of each row, at least 1.
        """
        hidden = self.decoder.hidden(tokens)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        real = (positions < lengths[:, None])[..., None].to(hidden.dtype)
        mean = (hidden * real).sum(dim=1) / lengths[:, None].to(hidden.dtype)
        return cast(Tensor, self.classify(mean))
