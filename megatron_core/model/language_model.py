"""The decoder: embedding, blocks, final norm, head."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from kernels.rotary import rotary_table
from megatron_core.config import ModelConfig
from megatron_core.model.block import Block, Norm


class LanguageModel(nn.Module):
    """A causal language model of the Llama type.

    With tied embeddings ``head.weight`` shares the storage of ``embedding.weight`` but stays a
    parameter of its own, so that each keeps its own gradient until the end of the step.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.hidden)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = Norm(config.hidden, config.norm_epsilon)
        self.head = nn.Linear(config.hidden, config.vocabulary, bias=False)
        table = rotary_table(config.positions, config.head_size, config.rope_theta)
        self.register_buffer("rotary", table, persistent=False)
        if config.tied_embeddings:
            self.head.weight = nn.Parameter(self.embedding.weight.data)

    @property
    def tied(self) -> dict[str, str]:
        """Parameters that share another's storage: ``{name: owner}``."""
        return {"head.weight": "embedding.weight"} if self.config.tied_embeddings else {}

    def hidden(self, tokens: Tensor) -> Tensor:
        """Final hidden states ``[batch, length, hidden]`` of int64 ``tokens [batch, length]``."""
        table = cast(Tensor, self.rotary)[:, : tokens.shape[1]]
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, table)
        return cast(Tensor, self.final_norm(x))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``[batch, length, vocabulary]`` of int64 ``tokens [batch, length]``."""
        return cast(Tensor, self.head(self.hidden(tokens)))
