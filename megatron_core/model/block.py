"""One transformer block: attention and feed-forward, each behind a norm and a residual."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels.attention import attention
from kernels.dropout import dropout, dropout_key
from kernels.rms_norm import rms_norm
from kernels.rotary import apply_rotary
from kernels.swiglu import swiglu
from megatron_core.config import ModelConfig
from megatron_core.model.context import visible
from megatron_core.model.experts import Experts
from megatron_core.model.linear import Split, columns, replicated, rows
from megatron_core.model.place import GradientLeaf, Place, Share


class Norm(nn.Module):
    """RMSNorm with a learned scale."""

    def __init__(self, hidden: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.epsilon = epsilon

    def forward(self, x: Tensor, place: Place, slices: int = 1) -> Tensor:
        """``x [s, b, hidden]``; each of its ``slices`` gives a weight gradient of its own."""
        # A view even of one: the gradients of its two uses are added before that of the residual
        # stream, as with several slices, and unlike chunk's a view's gradient is not copied.
        views = x.chunk(slices) if slices > 1 else [x.view_as(x)]
        parts = [
            rms_norm(part, replicated(self.weight, place.leaf, number), self.epsilon)
            for number, part in enumerate(views)
        ]
        return parts[0] if slices == 1 else torch.cat(parts)


class Attention(nn.Module):
    """Self-attention with rotary positions and grouped key and value heads."""

    def __init__(self, config: ModelConfig, share: Share) -> None:
        super().__init__()
        self.share, self.size = share, config.head_size
        self.causal = config.kind == "decoder"
        width, narrow = config.heads * self.size, config.kv_heads * self.size
        self.query = Split(width, config.hidden, 0, share.tensor)
        self.key = Split(narrow, config.hidden, 0, share.tensor)
        self.value = Split(narrow, config.hidden, 0, share.tensor)
        self.output = Split(config.hidden, width, 1, share.tensor)

    def forward(
        self, chunks: Sequence[Tensor], places: Sequence[Place], tables: Sequence[Tensor]
    ) -> list[Tensor]:
        """Local slices of each local chunk ``[slice, b, hidden]`` to the same."""
        span = self.share.tensor
        layers = (self.query, self.key, self.value)
        # For each shard, of each chunk: its heads' queries, keys and values.
        projected = zip(
            *(columns(x, layers, span, p.leaf) for x, p in zip(chunks, places, strict=True)),
            strict=True,
        )
        mixed = [self._mix(shard, tables) for shard in projected]
        return [
            rows(parts, self.output, span, place.leaf)
            for parts, place in zip(zip(*mixed, strict=True), places, strict=True)
        ]

    def _mix(self, shard: Sequence[tuple[Tensor, ...]], tables: Sequence[Tensor]) -> list[Tensor]:
        """Attention of one shard's heads: ``[s, b, heads · size]`` of each local chunk."""
        queries, keys, values = (
            [x.unflatten(-1, (-1, self.size)) for x in kind] for kind in zip(*shard, strict=True)
        )
        queries = [apply_rotary(x, table) for x, table in zip(queries, tables, strict=True)]
        keys = [apply_rotary(x, table) for x, table in zip(keys, tables, strict=True)]
        context = self.share.context
        seen = zip(
            queries,
            visible(keys, context, causal=self.causal),
            visible(values, context, causal=self.causal),
            strict=True,
        )
        return [self._attend(q, k, v).flatten(2) for q, k, v in seen]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.share.recompute != "selective":
            return attention(query, key, value, causal=self.causal)
        result: Tensor = checkpoint(
            attention, query, key, value, causal=self.causal,
            use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip
        return result


class FeedForward(nn.Module):
    """SwiGLU feed-forward layer."""

    def __init__(self, config: ModelConfig, share: Share) -> None:
        super().__init__()
        self.span = share.tensor
        self.gate = Split(config.ffn, config.hidden, 0, share.tensor)
        self.up = Split(config.ffn, config.hidden, 0, share.tensor)
        self.down = Split(config.hidden, config.ffn, 1, share.tensor)

    def forward(self, chunks: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
        """Local slices of each local chunk ``[slice, b, hidden]`` to the same."""
        return [self._one(x, place.leaf) for x, place in zip(chunks, places, strict=True)]

    def _one(self, x: Tensor, leaf: GradientLeaf | None) -> Tensor:
        both = columns(x, (self.gate, self.up), self.span, leaf)
        return rows([swiglu(gate, up) for gate, up in both], self.down, self.span, leaf)


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + ffn(norm(x))``."""

    def __init__(self, config: ModelConfig, share: Share, layer: int) -> None:
        super().__init__()
        self.share, self.layer, self.rate = share, layer, config.dropout
        self.attention_norm = Norm(config.hidden, config.norm_epsilon)
        self.attention = Attention(config, share)
        self.ffn_norm = Norm(config.hidden, config.norm_epsilon)
        self.ffn = FeedForward(config, share) if config.experts is None else Experts(config, share)

    def forward(
        self, chunks: Sequence[Tensor], places: Sequence[Place], tables: Sequence[Tensor]
    ) -> list[Tensor]:
        """The residual stream through the block.

        Args:
            chunks: Of each local context chunk the local sequence slices, ``[slice, b, hidden]``.
            places: Of each chunk.
            tables: Rotary angles of each whole chunk, ``[2, s, size]``.
        """
        slices = len(self.share.tensor.local)
        normed = [self.attention_norm(x, p, slices) for x, p in zip(chunks, places, strict=True)]
        changes = self.attention(normed, places, tables)
        chunks = [
            x + self._drop(change, place, "attention")
            for x, change, place in zip(chunks, changes, places, strict=True)
        ]
        normed = [self.ffn_norm(x, p, slices) for x, p in zip(chunks, places, strict=True)]
        return [
            x + self._drop(change, place, "ffn")
            for x, change, place in zip(chunks, self.ffn(normed, places), places, strict=True)
        ]

    def _drop(self, x: Tensor, place: Place, site: str) -> Tensor:
        return drop(x, self.rate, place, self.share, layer=self.layer, site=site)


def drop(x: Tensor, rate: float, place: Place, share: Share, *, layer: int, site: str) -> Tensor:
    """Dropout of the local slices ``x [slice, b, hidden]`` of a chunk, from a counter."""
    draw = place.draw
    if draw is None or rate == 0.0:
        return x
    keys = [
        [
            dropout_key(
                draw.seed, step=draw.step, sample=sample, layer=layer, site=site,
                chunk=place.chunk, slice=number,
            )
            for number in share.tensor.local
        ]
        for sample in draw.samples
    ]  # fmt: skip
    return dropout(x, rate, keys)
