"""The language model: embedding, blocks, final norm, head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels.rotary import rotary_table
from megatron_core.config import ModelConfig
from megatron_core.model.block import Block, Norm, drop
from megatron_core.model.linear import Split, columns
from megatron_core.model.place import ALONE, Place, Share
from megatron_core.model.vocabulary import cross_entropy, embed


class LanguageModel(nn.Module):
    """A transformer of the Llama type, or the share of it that this rank computes.

    With tied embeddings the head has parameters of its own that share the storage of the
    embedding's, so that each keeps its own gradient until the end of the step.
    """

    def __init__(self, config: ModelConfig, share: Share | None = None) -> None:
        super().__init__()
        share = share or Share()
        self.config, self.share = config, share
        span = share.tensor
        if share.first:
            self.embedding = Split(config.vocabulary, config.hidden, 0, span)
        layers = range(config.layers) if share.layers is None else share.layers
        self.layers = nn.ModuleDict({str(n): Block(config, share, n) for n in layers})
        if share.last:
            self.final_norm = Norm(config.hidden, config.norm_epsilon)
            self.head = Split(config.vocabulary, config.hidden, 0, span)
        if share.last and share.first and config.tied_embeddings:
            for shard, owner in self.embedding.weight.items():
                self.head.weight[shard] = nn.Parameter(owner.data)
        table = rotary_table(config.positions, config.head_size, config.rope_theta)
        self.register_buffer("rotary", table, persistent=False)

    @property
    def tied(self) -> dict[str, str]:
        """Tensors that are another's: ``{tensor: owner}``."""
        return {"head.weight": "embedding.weight"} if self.config.tied_embeddings else {}

    def embed(self, tokens: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
        """The residual stream ``[slice, b, hidden]`` of int64 ``tokens [s, b]``, by chunk."""
        return [
            drop(
                embed(chunk, self.embedding, self.share.tensor, place.leaf),
                self.config.dropout, place, self.share, layer=-1, site="embedding",
            )
            for chunk, place in zip(tokens, places, strict=True)
        ]  # fmt: skip

    def blocks(self, chunks: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
        """The residual stream through the blocks that are here."""
        residual = list(chunks)
        size = residual[0].shape[0] * self.share.tensor.ranks
        table = cast(Tensor, self.rotary)
        tables = [table[:, p.chunk * size : (p.chunk + 1) * size] for p in places]
        for block in self.layers.values():
            if self.share.recompute == "full":
                residual = checkpoint(
                    block, residual, places, tables, use_reentrant=False, preserve_rng_state=False
                )
            else:
                residual = block(residual, places, tables)
        return residual

    def normed(self, chunks: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
        """The final norm of the residual stream."""
        slices = len(self.share.tensor.local)
        return [self.final_norm(x, p, slices) for x, p in zip(chunks, places, strict=True)]

    def losses(
        self, chunks: Sequence[Tensor], targets: Sequence[Tensor], places: Sequence[Place]
    ) -> list[Tensor]:
        """The summed cross-entropy of each chunk against int64 ``targets [s, b]``."""
        span = self.share.tensor
        return [
            cross_entropy([logits for (logits,) in columns(x, [self.head], span, p.leaf)], t, span)
            for x, t, p in zip(self.normed(chunks, places), targets, places, strict=True)
        ]

    def hidden(self, tokens: Tensor) -> Tensor:
        """Final hidden states ``[b, s, hidden]`` of int64 ``tokens [b, s]``; whole models only."""
        (x,) = self.normed(self.blocks(self.embed([tokens.T], ALONE), ALONE), ALONE)
        return x.transpose(0, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``[b, s, vocabulary]`` of int64 ``tokens [b, s]``; whole models only."""
        ((logits,),) = columns(
            self.hidden(tokens).transpose(0, 1), [self.head], self.share.tensor, None
        )
        return logits.transpose(0, 1)
