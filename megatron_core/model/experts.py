"""A mixture of experts in place of a feed-forward layer.

Every token's row goes to each expert that it chose, wherever that is among the data ranks, and no
token is dropped. The rows that one microbatch sends to one expert are multiplied alone, so every
product has the shape that the tokens define, and an expert's weight gradients are summed apart
for each rank that the rows came from: whether experts share a rank changes no bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from kernels.precision import wide, wide_dtype
from kernels.registry import Kernels
from megatron_core.collectives import Span, tree_sum
from megatron_core.collectives.rows import exchange_rows
from megatron_core.config import ModelConfig
from megatron_core.model.linear import Split, whole
from megatron_core.model.place import GradientLeaf, Place, Share
from megatron_core.model.routing import (
    Assignment,
    Routing,
    assign,
    attach,
    balance_loss,
    combine,
    dispatch,
    route,
    z_loss,
)


class Router(nn.Module):
    """Scores each expert for each token, in fp32."""

    def __init__(self, hidden: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, hidden))

    def forward(self, x: Tensor, place: Place, slices: int) -> list[Tensor]:
        """Logits fp32 ``[n, e]`` of each slice of ``x [slices · s, b, hidden]``."""
        scores = whole(x, self.weight, place.leaf, slices, wide_dtype(x.dtype))
        return [part.flatten(0, 1) for part in scores]


class Expert(nn.Module):
    """The weights of one SwiGLU feed-forward layer."""

    def __init__(self, hidden: int, ffn: int, span: Span) -> None:
        super().__init__()
        self.gate = Split(ffn, hidden, 0, span, expert=True)
        self.up = Split(ffn, hidden, 0, span, expert=True)
        self.down = Split(hidden, ffn, 1, span, expert=True)


class Experts(nn.Module):
    """A router, and those of its experts that are on this rank."""

    def __init__(self, config: ModelConfig, share: Share) -> None:
        super().__init__()
        experts = config.experts
        if experts is None or experts.count % share.expert.ranks:
            raise ValueError(f"{share.expert.ranks} ranks cannot share {experts} evenly")
        self.config, self.share = experts, share
        self.router = Router(config.hidden, experts.count)
        local = Span(experts.count, share.expert.ranks, share.expert.rank).local
        self.experts = nn.ModuleDict(
            {str(n): Expert(config.hidden, experts.ffn, share.tensor) for n in local}
        )

    def forward(self, chunks: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
        """Local slices of each local chunk ``[slice, b, hidden]`` to the same."""
        span = self.share.tensor
        slices = len(span.local)
        scores = [self.router(x, place, slices) for x, place in zip(chunks, places, strict=True)]
        routings = [[route(logits, self.config) for logits in chunk] for chunk in scores]
        assignments = [
            assign(span.gather(torch.cat([r.experts for r in chunk])), self.config.count)
            for chunk in routings
        ]
        fractions = self._fractions(assignments)
        results = []
        for x, place, logits, routing, assignment in zip(
            chunks, places, scores, routings, assignments, strict=True
        ):
            weights = self._weights(logits, routing, fractions, place)
            results.append(self._mix(x, weights, assignment, place.leaf))
        return results

    def _fractions(self, assignments: Sequence[Assignment]) -> Tensor:
        """The share of all choices in the microbatch that each expert got: fp32 ``[e]``."""
        counts = self.share.context.sum(torch.stack([a.counts for a in assignments]).sum(dim=0))
        return counts / counts.sum()

    def _weights(
        self, scores: list[Tensor], routings: list[Routing], fractions: Tensor, place: Place
    ) -> Tensor:
        """What each choice of the local slices counts, ``[n, k]``, the router's losses attached.

        Their sums over tokens are divided, like the model's loss, by the number of predictions.
        """
        attached = []
        for logits, routing in zip(scores, routings, strict=True):
            balance = self.config.balance_loss * balance_loss(routing.probabilities, fractions)
            loss = balance + self.config.z_loss * z_loss(logits)
            attached.append(attach(routing.weights, loss, place.scale * place.predictions))
        return torch.cat(attached)

    def _mix(
        self, x: Tensor, weights: Tensor, assignment: Assignment, leaf: GradientLeaf | None
    ) -> Tensor:
        shared = _Shared(
            self.share.tensor, leaf, _Traffic.of(assignment.counts, self.share.expert), x.shape[1],
            self.share.kernels,
        )  # fmt: skip
        experts: list[Expert] = list(self.experts.values())  # type: ignore[arg-type]
        shards = range(len(self.share.tensor.local))
        outer = [w for i in shards for e in experts for w in (e.gate.shards[i], e.up.shards[i])]
        narrow = [e.down.shards[i] for i in shards for e in experts]
        order, place = assignment.order, assignment.place
        both = _ToExperts.apply(x, order, place, shared, *outer)  # type: ignore[no-untyped-call]
        # One segment at a time: at the end of a tensor an exponential may be computed otherwise.
        inner = [self.share.kernels.swiglu(both[i], both[i + 1]) for i in range(0, len(both), 2)]
        result: Tensor = _FromExperts.apply(weights, order, place, shared, *inner, *narrow)  # type: ignore[no-untyped-call]
        return result


@dataclass(frozen=True)
class _Segment:
    """The rows that one rank sends to one expert here."""

    source: int
    expert: int
    rows: slice


@dataclass(frozen=True)
class _Traffic:
    """Rows of one chunk to the experts and back.

    Attributes:
        span: The ranks that the experts are spread over.
        sent: Rows for each rank, sorted by expert.
        received: Rows from each rank.
        segments: Of the received rows, by source and expert, also empty ones.
    """

    span: Span
    sent: tuple[int, ...]
    received: tuple[int, ...]
    segments: tuple[_Segment, ...]

    @classmethod
    def of(cls, counts: Tensor, span: Span) -> _Traffic:
        """From int64 ``counts [e]`` of the rows that this rank has for each expert."""
        table = span.gather(counts).view(span.ranks, -1).tolist()
        each = len(counts) // span.ranks
        sent = tuple(sum(table[span.rank][r * each : (r + 1) * each]) for r in range(span.ranks))
        segments, start = [], 0
        for source, row in enumerate(table):
            for expert, count in enumerate(row[span.rank * each : (span.rank + 1) * each]):
                segments.append(_Segment(source, expert, slice(start, start + count)))
                start += count
        received = tuple(sum(row[span.rank * each : (span.rank + 1) * each]) for row in table)
        return cls(span, sent, received, tuple(segments))

    def there(self, rows: Tensor) -> Tensor:
        """Rows of this rank's tokens ``[Σ sent, …]`` to the experts: ``[Σ received, …]``."""
        return exchange_rows(rows, self.sent, self.received, self.span)

    def back(self, rows: Tensor) -> Tensor:
        """Rows of the experts here to the ranks that they came from."""
        return exchange_rows(rows, self.received, self.sent, self.span)


@dataclass(frozen=True)
class _Shared:
    """What both halves of the layer need beside tensors."""

    span: Span
    leaf: GradientLeaf | None
    traffic: _Traffic
    batch: int
    kernels: Kernels

    def partial(self, dtype: torch.dtype) -> torch.dtype:
        """Of results that are yet to be added over shards."""
        return wide_dtype(dtype) if self.span.shards > 1 else dtype

    def scatter(self, parts: Sequence[Tensor]) -> Tensor:
        """The tree sum of one ``[n, …]`` of each shard, of which each rank keeps its slices."""
        return self.span.scatter_sum(tree_sum(parts))

    def sums(self, weights: Sequence[Tensor]) -> list[Tensor | None]:
        """Where gradients are added when there is no leaf to give them to."""
        if self.leaf is not None:
            return [None] * len(weights)
        return [torch.zeros_like(wide(weight)) for weight in weights]

    def give(
        self, weight: Tensor, gradient: Tensor, x: Tensor, source: int, total: Tensor | None
    ) -> None:
        """Hand a weight gradient to the leaf, or add it to ``total``; also one of no rows."""
        if self.leaf is not None:
            self.leaf.linear(weight, gradient, x, self.kernels, source)  # type: ignore[arg-type]
        elif total is not None:
            self.kernels.add_weight_gradient(total, gradient, x)


class _ToExperts(Function):
    """Rows to the experts and through the first two layers of each.

    The outputs are, for each local shard and each segment, gate and up ``[rows, ffn / T]``.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, order: Tensor, place: Tensor, shared: _Shared, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        tokens = shared.span.gather(x).flatten(0, 1)
        rows = shared.traffic.there(dispatch(tokens, order, place.shape[1]))
        ctx.save_for_backward(place, rows)
        ctx.shared, ctx.weights = shared, weights
        return tuple(
            shared.kernels.linear(rows[segment.rows], weights[first + layer])
            for first, segment in _products(shared, len(weights), 2)
            for layer in range(2)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        place, rows = ctx.saved_tensors
        shared, weights = ctx.shared, ctx.weights
        sums = shared.sums(weights)
        shards = len(shared.span.local)
        totals = rows.new_empty(shards, *rows.shape, dtype=shared.partial(rows.dtype))
        each = len(shared.traffic.segments)
        for i, (first, segment) in enumerate(_products(shared, len(weights), 2)):
            pair, x = gradients[2 * i : 2 * i + 2], rows[segment.rows]
            totals[i // each, segment.rows] = shared.kernels.input_gradient(
                pair, weights[first : first + 2]
            )
            for layer, gradient in enumerate(pair, start=first):
                shared.give(weights[layer], gradient, x, segment.source, sums[layer])
        parts = [combine(shared.traffic.back(total), place) for total in totals]
        own = shared.scatter([part.view(-1, shared.batch, part.shape[1]) for part in parts])
        return own.to(rows.dtype), None, None, None, *_cast(sums, weights)


class _FromExperts(Function):
    """Through the last layer of each expert, back, and added up as the router weights them.

    ``tensors`` are the inputs ``[rows, ffn / T]`` of each local shard and segment, then the
    weights of each local shard and expert. The output is ``[slice, b, hidden]``.
    """

    @staticmethod
    def forward(
        ctx: Any, own: Tensor, order: Tensor, place: Tensor, shared: _Shared, *tensors: Tensor
    ) -> Tensor:
        span, traffic = shared.span, shared.traffic
        each, shards = len(traffic.segments), len(span.local)
        inputs, layers = tensors[: each * shards], tensors[each * shards :]
        dtype, hidden = inputs[0].dtype, layers[0].shape[0]
        partial = shared.partial(dtype)
        results = own.new_empty(shards, sum(traffic.received), hidden, dtype=partial)
        for i, (layer, segment) in enumerate(_products(shared, len(layers), 1)):
            results[i // each, segment.rows] = shared.kernels.linear(
                inputs[i], layers[layer], partial
            )
        weights = span.gather(own)
        rows = [traffic.back(result) for result in results]
        ctx.save_for_backward(weights, order, place, *inputs, *(x.to(dtype) for x in rows))
        ctx.shared, ctx.layers = shared, layers
        parts = [combine(x, place, weights).view(-1, shared.batch, hidden) for x in rows]
        return shared.scatter(parts).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        shared, layers = ctx.shared, ctx.layers
        weights, order, place, *saved = ctx.saved_tensors
        count = len(saved) - len(shared.span.local)
        inputs, results = saved[:count], saved[count:]
        whole = shared.span.gather(gradient).flatten(0, 1)
        chosen = dispatch(whole, order, place.shape[1])
        weighted = wide(chosen) * weights.flatten()[order, None]
        rows = shared.traffic.there(weighted.to(gradient.dtype))
        sums = shared.sums(layers)
        grads = []
        for x, (layer, segment) in zip(inputs, _products(shared, len(layers), 1), strict=True):
            part = rows[segment.rows]
            own = shared.kernels.input_gradient([part], [layers[layer]])
            grads.append(own.to(x.dtype))
            shared.give(layers[layer], part, x, segment.source, sums[layer])
        agreement = [(wide(chosen) * wide(result)).sum(dim=1)[place] for result in results]
        return shared.scatter(agreement), None, None, None, *grads, *_cast(sums, layers)


def _products(shared: _Shared, weights: int, layers: int) -> list[tuple[int, _Segment]]:
    """Of each local shard each segment, with the number of its expert's first weight.

    ``weights`` of them are ordered by local shard, expert and layer.
    """
    each = weights // len(shared.span.local)
    return [
        (shard * each + segment.expert * layers, segment)
        for shard in range(len(shared.span.local))
        for segment in shared.traffic.segments
    ]


def _cast(sums: Sequence[Tensor | None], weights: Sequence[Tensor]) -> list[Tensor | None]:
    return [s if s is None else s.to(w.dtype) for s, w in zip(sums, weights, strict=True)]
