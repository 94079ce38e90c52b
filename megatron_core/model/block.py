"""One transformer block: attention and feed-forward, each with a norm and a residual."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels.dropout import dropout, dropout_key
from megatron_core.config import ModelConfig
from megatron_core.model.context import visible
from megatron_core.model.experts import Experts
from megatron_core.model.linear import Split, columns, rows
from megatron_core.model.norm import HeadNorm, Norm, WidthNorm
from megatron_core.model.place import GradientLeaf, Place, Share


class Attention(nn.Module):
    """Self-attention with grouped key and value heads, and rotary positions if there are tables."""

    def __init__(self, config: ModelConfig, share: Share, layer: int) -> None:
        super().__init__()
        self.share, self.layer, self.size = share, layer, config.head_size
        self.causal, self.window = config.kind == "decoder", config.window
        width, narrow = config.heads * self.size, config.kv_heads * self.size
        bias, span = config.attention_bias, share.tensor
        self.query = Split(width, config.hidden, 0, span, bias=bias != "none")
        self.key = Split(narrow, config.hidden, 0, span, bias=bias != "none")
        self.value = Split(narrow, config.hidden, 0, span, bias=bias != "none")
        self.output = Split(config.hidden, width, 1, span, bias=bias == "all")
        self.query_norm: HeadNorm | WidthNorm | None = None
        self.key_norm: HeadNorm | WidthNorm | None = None
        if config.query_key_norm == "head":
            self.query_norm, self.key_norm = HeadNorm(config, share), HeadNorm(config, share)
        elif config.query_key_norm == "all":
            self.query_norm = WidthNorm(config, config.heads, span)
            self.key_norm = WidthNorm(config, config.kv_heads, span)

    def forward(
        self,
        chunks: Sequence[Tensor],
        places: Sequence[Place],
        tables: Sequence[Tensor],
        seen: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        """Local slices of each local chunk ``[slice, b, hidden]`` to the same.

        ``tables`` are the rotary angles of each chunk; none for positions that are learned.
        ``seen`` is what each chunk's queries see; none for what the kind of the model says.
        """
        span = self.share.tensor
        # For each shard, of each chunk: its heads' queries, keys and values.
        projected = zip(span.local, *map(self._project, chunks, places), strict=True)
        mixed = [self._mix(n, shard, places, tables, seen) for n, *shard in projected]
        return [
            rows(parts, self.output, span, place.leaf, self.share.kernels)
            for parts, place in zip(zip(*mixed, strict=True), places, strict=True)
        ]

    def _project(self, x: Tensor, place: Place) -> list[tuple[Tensor, ...]]:
        """Queries, keys and values ``[s, b, heads, size]`` of each local shard."""
        span = self.share.tensor
        layers = (self.query, self.key, self.value)
        shards = columns(x, layers, span, place.leaf, self.share.kernels)
        queries, keys, values = (
            [y.unflatten(-1, (-1, self.size)) for y in kind] for kind in zip(*shards, strict=True)
        )
        if self.query_norm is not None and self.key_norm is not None:
            queries = self.query_norm(queries, span, place)
            keys = self.key_norm(keys, span, place)
        return list(zip(queries, keys, values, strict=True))

    def _mix(
        self, number: int, shard: Sequence[tuple[Tensor, ...]], places: Sequence[Place],
        tables: Sequence[Tensor], seen: Sequence[Tensor],
    ) -> list[Tensor]:  # fmt: skip
        """Attention of one shard's heads: ``[s, b, heads · size]`` of each local chunk."""
        queries, keys, values = (list(kind) for kind in zip(*shard, strict=True))
        if tables:
            rotate = self.share.kernels.apply_rotary
            queries = [rotate(x, table) for x, table in zip(queries, tables, strict=True)]
            keys = [rotate(x, table) for x, table in zip(keys, tables, strict=True)]
        if (own := places[0].attention) is not None:
            mixed = own.attend(self.layer, number, *queries, *keys, *values)
            return [mixed.flatten(2)]
        context = self.share.context
        masks: Sequence[Tensor | None] = seen or [None] * len(queries)
        read = zip(
            queries,
            visible(keys, context, causal=self.causal),
            visible(values, context, causal=self.causal),
            masks,
            strict=True,
        )
        return [self._attend(*one).flatten(2) for one in read]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None) -> Tensor:
        attention = self.share.kernels.attention
        if self.share.recompute != "selective":
            return attention(query, key, value, causal=self.causal, window=self.window, seen=seen)
        result: Tensor = checkpoint(
            attention, query, key, value, causal=self.causal, window=self.window, seen=seen,
            use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip
        return result


class FeedForward(nn.Module):
    """Feed-forward layer: SwiGLU, or GELU between two matrices."""

    def __init__(self, config: ModelConfig, share: Share) -> None:
        super().__init__()
        self.span, self.kernels, self.activation = share.tensor, share.kernels, config.activation
        bias = config.ffn_bias
        if config.gated:
            self.gate = Split(config.ffn, config.hidden, 0, share.tensor, bias=bias)
        self.up = Split(config.ffn, config.hidden, 0, share.tensor, bias=bias)
        self.down = Split(config.hidden, config.ffn, 1, share.tensor, bias=bias)

    def forward(self, chunks: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
        """Local slices of each local chunk ``[slice, b, hidden]`` to the same."""
        return [self._one(x, place.leaf) for x, place in zip(chunks, places, strict=True)]

    def _one(self, x: Tensor, leaf: GradientLeaf | None) -> Tensor:
        layers = (self.gate, self.up) if self.activation == "swiglu" else (self.up,)
        shards = columns(x, layers, self.span, leaf, self.kernels)
        inner = [self._act(*shard) for shard in shards]
        return rows(inner, self.down, self.span, leaf, self.kernels)

    def _act(self, *inputs: Tensor) -> Tensor:
        if self.activation == "swiglu":
            return self.kernels.swiglu(*inputs)
        return self.kernels.gelu(*inputs, tanh=self.activation == "gelu_tanh")


class Block(nn.Module):
    """Attention, then feed-forward, each with a norm and added to the residual stream.

    The norm is of what the layer reads, of the sum, or of what it adds (``norm_place``).
    """

    def __init__(self, config: ModelConfig, share: Share, layer: int) -> None:
        super().__init__()
        self.share, self.layer, self.rate = share, layer, config.dropout
        self.norm_place = config.norm_place
        self.attention_norm = Norm(config, share)
        self.attention = Attention(config, share, layer)
        self.ffn_norm = Norm(config, share)
        self.ffn = FeedForward(config, share) if config.experts is None else Experts(config, share)

    def forward(
        self,
        chunks: Sequence[Tensor],
        places: Sequence[Place],
        tables: Sequence[Tensor],
        seen: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        """The residual stream through the block.

        Args:
            chunks: Of each local context chunk the local sequence slices, ``[slice, b, hidden]``.
            places: Of each chunk.
            tables: Rotary angles of each whole chunk, ``[2, s, size]``, if positions are rotary.
            seen: What each chunk's queries see, ``[b, s, keys]``, if documents are kept apart.
        """

        def attend(x: Sequence[Tensor]) -> list[Tensor]:
            return self.attention(x, places, tables, seen)  # type: ignore[no-any-return]

        def feed(x: Sequence[Tensor]) -> list[Tensor]:
            return self.ffn(x, places)  # type: ignore[no-any-return]

        chunks = self._add(chunks, places, self.attention_norm, attend, "attention")
        return self._add(chunks, places, self.ffn_norm, feed, "ffn")

    def _add(
        self, chunks: Sequence[Tensor], places: Sequence[Place], norm: Norm,
        layer: Callable[[Sequence[Tensor]], list[Tensor]], site: str,
    ) -> list[Tensor]:  # fmt: skip
        slices = len(self.share.tensor.local)

        def normed(x: Sequence[Tensor], where: str) -> Sequence[Tensor]:
            if self.norm_place != where:
                return x
            return [norm(part, place, slices) for part, place in zip(x, places, strict=True)]

        changes = normed(layer(normed(chunks, "before")), "change")
        sums = [
            x + self._drop(change, place, site)
            for x, change, place in zip(chunks, changes, places, strict=True)
        ]
        return list(normed(sums, "after"))

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
