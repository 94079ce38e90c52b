"""The language model: embedding, blocks, final norm, head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels.cross_entropy import IGNORED, cross_entropy_sum
from megatron_core.config import ModelConfig
from megatron_core.model.block import Block, drop
from megatron_core.model.embedding import Positions, TokenTypes
from megatron_core.model.head import ClassHead, Pooler, Transform
from megatron_core.model.linear import Split, collect, columns
from megatron_core.model.norm import Norm
from megatron_core.model.place import ALONE, Place, Share
from megatron_core.model.rotary import rotary_angles
from megatron_core.model.soft_prompt import SoftPrompt
from megatron_core.model.vocabulary import cross_entropy, embed, head_loss, token_losses


class LanguageModel(nn.Module):
    """A transformer, or the share of it that this rank computes.

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
            self.soft_prompt: SoftPrompt | None = None
            self.positions = self.token_types = self.embedding_norm = None
            if config.position_embedding == "learned":
                self.positions = Positions(config)
            if config.token_types:
                self.token_types = TokenTypes(config)
            if config.embedding_norm:
                self.embedding_norm = Norm(config, share)
        layers = range(config.layers) if share.layers is None else share.layers
        self.layers = nn.ModuleDict({str(n): Block(config, share, n) for n in layers})
        if share.last:
            self.final_norm = Norm(config, share) if config.final_norm else None
            self.transform = Transform(config, share) if config.head_transform else None
            self.head = Split(config.vocabulary, config.hidden, 0, span, bias=config.head_bias)
            self.pooler = Pooler(config.hidden) if config.pooler else None
            self.pair_head = ClassHead(config.hidden, 2) if config.pooler else None
        if share.last and share.first and config.tied_embeddings:
            for shard, owner in self.embedding.weight.items():
                self.head.weight[shard] = nn.Parameter(owner.data)
        rotary = config.position_embedding == "rotary"
        self.register_buffer("rotary", rotary_angles(config) if rotary else None, persistent=False)

    @property
    def tied(self) -> dict[str, str]:
        """Tensors that are another's: ``{tensor: owner}``."""
        return {"head.weight": "embedding.weight"} if self.config.tied_embeddings else {}

    def embed(self, tokens: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
        """The residual stream ``[slice, b, hidden]`` of int64 ``tokens [s, b]``, by chunk."""
        return [self._embed(x, place) for x, place in zip(tokens, places, strict=True)]

    def _embed(self, tokens: Tensor, place: Place) -> Tensor:
        span = self.share.tensor
        x = embed(tokens, self.embedding, span, place.leaf)
        start = place.chunk * tokens.shape[0]
        if self.soft_prompt is not None:
            x = self.soft_prompt(x, start, span, place)
        if self.positions is not None:
            x = self.positions(x, start, span, place)
        if self.token_types is not None:
            x = self.token_types(x, start, span, place)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x, place, len(span.local))
        return drop(x, self.config.dropout, place, self.share, layer=-1, site="embedding")

    def blocks(self, chunks: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
        """The residual stream through the blocks that are here."""
        residual = list(chunks)
        size = residual[0].shape[0] * self.share.tensor.ranks
        tables = [_angles(self.rotary, p, size) for p in places if isinstance(self.rotary, Tensor)]
        causal, window = self.config.kind == "decoder", self.config.window
        seen = [
            p.documents.seen(p.chunk * size, size, causal=causal, window=window)
            for p in places
            if p.documents is not None and p.attention is None
        ]
        for block in self.layers.values():
            if self.share.recompute == "full":
                residual = checkpoint(
                    block, residual, places, tables, seen,
                    use_reentrant=False, preserve_rng_state=False,
                )  # fmt: skip
            else:
                residual = block(residual, places, tables, seen)
        return residual

    def normed(self, chunks: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
        """The final norm of the residual stream."""
        if self.final_norm is None:
            return list(chunks)
        slices = len(self.share.tensor.local)
        return [self.final_norm(x, p, slices) for x, p in zip(chunks, places, strict=True)]

    def scores(self, x: Tensor, place: Place) -> list[Tensor]:
        """Logits ``[s, b, vocabulary / T]`` of each local shard from final hidden states."""
        span = self.share.tensor
        if self.transform is not None:
            x = self.transform(x, place, len(span.local))
        return [logits for (logits,) in columns(x, [self.head], span, place.leaf)]

    def losses(
        self, chunks: Sequence[Tensor], targets: Sequence[Tensor], places: Sequence[Place]
    ) -> list[Tensor]:
        """The summed cross-entropy of each chunk against int64 ``targets [s, b]``.

        Where sequences are pairs, ``[2]``: beside it the weighted one of the pairs.
        """
        found = []
        for x, t, place in zip(self.normed(chunks, places), targets, places, strict=True):
            loss = self._loss(x, t, place)
            if place.segments is not None and place.segments.labels is not None:
                labels, weight = place.segments.labels, place.segments.weight
                loss = torch.stack([loss, weight * self._pair_loss(x, labels, place)])
            found.append(loss)
        return found

    def _loss(self, x: Tensor, targets: Tensor, place: Place) -> Tensor:
        if self.share.tensor.shards > 1:
            return cross_entropy(self.scores(x, place), targets, self.share.tensor)
        if self.transform is not None:
            x = self.transform(x, place, 1)
        return head_loss(x, targets, self.head, place, self.share.kernels)

    def pair_scores(self, x: Tensor, place: Place) -> Tensor:
        """Logits ``[b, 2]`` of pairs, from final hidden states ``[slice, b, hidden]``.

        They are of the chunk's first position, which is that of the sequence in the first chunk.
        """
        if self.pooler is None or self.pair_head is None:
            raise ValueError("pairs need a model with a pooler")
        first = collect(x[:1], self.share.tensor)[0]
        return cast(Tensor, self.pair_head(self.pooler(first, place), place))

    def _pair_loss(self, x: Tensor, labels: Tensor, place: Place) -> Tensor:
        """Of one chunk's final hidden states.

        Chunks after the first have none, but each owes the weights a gradient, which is zero.
        """
        if place.chunk > 0:
            labels = torch.full_like(labels, IGNORED)
        return cross_entropy_sum(self.pair_scores(x, place), labels)

    def outputs(
        self, chunks: Sequence[Tensor], targets: Sequence[Tensor], places: Sequence[Place]
    ) -> list[Tensor]:
        """The negative log-probability of each of ``targets [s, b]`` in nats: fp32 ``[b, s]``."""
        normed, span = self.normed(chunks, places), self.share.tensor
        return [
            token_losses(self.scores(x, place), t, span).T
            for x, t, place in zip(normed, targets, places, strict=True)
        ]

    def hidden(self, tokens: Tensor) -> Tensor:
        """Final hidden states ``[b, s, hidden]`` of int64 ``tokens [b, s]``; whole models only."""
        (x,) = self.normed(self.blocks(self.embed([tokens.T], ALONE), ALONE), ALONE)
        return x.transpose(0, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``[b, s, vocabulary]`` of int64 ``tokens [b, s]``; whole models only."""
        shards = self.scores(self.hidden(tokens).transpose(0, 1), *ALONE)
        return torch.cat(shards, dim=-1).transpose(0, 1)


def _angles(table: Tensor, place: Place, size: int) -> Tensor:
    """The rotary angles of a chunk of ``size`` tokens, for the positions in its documents."""
    chunk = slice(place.chunk * size, (place.chunk + 1) * size)
    if place.documents is None:
        return table[:, chunk]
    return table[:, place.documents.positions[chunk]]
