"""Faults of the kinds that distributed training has suffered from, to be planted in a rank.

Each function changes the engine of the process that calls it, for good.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.cross_entropy import IGNORED
from kernels.linear import linear
from kernels.registry import Kernels
from megatron_core.collectives import CutSum, Span
from megatron_core.model import block
from megatron_core.model import linear as layers
from megatron_core.parallel.batch import Batch, LossSums
from megatron_core.parallel.bucket import Bucket, BucketGradient
from megatron_core.parallel.engine import Engine
from megatron_core.parallel.gradients import StepGradients
from megatron_core.parallel.measure import Measured
from megatron_core.parallel.pipeline import Microbatch, Pipeline


def sum_in_a_row() -> None:
    """Gradients of the data ranks added one after the other."""

    def wait(self: CutSum) -> Tensor:
        if self._work is None:
            return self._buffer
        self._work.wait()
        return functools.reduce(torch.add, self._received.chunk(self._ranks))

    CutSum.wait = wait  # type: ignore[method-assign]


def all_reduced_sum() -> None:
    """Gradients of the data ranks added by the library's all-reduce."""
    begin = CutSum.__init__

    def begin_none(self: CutSum, buffer: Tensor, bounds: Sequence[int], group: Any) -> None:
        begin(self, buffer, bounds, None)
        self.cut = bounds, group  # type: ignore[attr-defined]

    def wait(self: CutSum) -> Tensor:
        bounds, group = self.cut  # type: ignore[attr-defined]
        if group is None:
            return self._buffer
        dist.all_reduce(self._buffer, group=group)
        rank = dist.get_rank(group)
        return self._buffer[bounds[rank] : bounds[rank + 1]].clone()

    CutSum.__init__, CutSum.wait = begin_none, wait  # type: ignore[method-assign]


def one_product_of_all_shards() -> None:
    """The shards of a rank multiplied at once, so that the shape depends on the layout."""

    def forward(
        ctx: Any, span: Span, leaf: Any, kernels: Kernels, count: int, *tensors: Tensor
    ) -> Tensor:
        inputs, weights = tensors[:count], tensors[count:]
        ctx.save_for_backward(*inputs)
        ctx.span, ctx.leaf, ctx.kernels, ctx.weights = span, leaf, kernels, weights
        whole = linear(torch.cat(inputs, dim=-1), torch.cat(weights, dim=1), torch.float32)
        return span.scatter_sum(whole).to(inputs[0].dtype)

    layers._Rows.forward = staticmethod(forward)  # type: ignore[assignment]


def carried_generator() -> None:
    """Dropout from the generator of the process, seeded alike on every rank."""
    torch.manual_seed(1)

    def dropout(x: Tensor, rate: float, keys: Sequence[Sequence[int]]) -> Tensor:
        return F.dropout(x, rate)

    block.dropout = dropout  # type: ignore[attr-defined]


def shared_tied_sum() -> None:
    """The gradients of embedding and head in one sum where both are on one rank."""
    add = StepGradients.add

    def shared(
        self: StepGradients, weight: nn.Parameter, shard: int, chunk: int, variant: int,
        added: Callable[[Tensor], None],
    ) -> None:  # fmt: skip
        number, place = self._places[weight]
        owner = self.buckets[number].owner
        if owner is not None:
            added(self._sums[self.buckets.index(owner)].target(shard, chunk, variant, place))
            added = torch.Tensor.detach  # adds nothing to the head's own
        add(self, weight, shard, chunk, variant, added)

    StepGradients.add = shared  # type: ignore[method-assign]


def divided_by_the_local_count() -> None:
    """One data rank divides by the predictions of its own samples."""
    mean = Engine._mean

    def local(self: Engine, losses: Any, read: Sequence[Batch]) -> LossSums:
        found = mean(self, losses, read)
        if self.mesh.data_rank != 1:
            return found
        own = sum(batch.count for batch in read)
        return replace(found, predictions=torch.full_like(found.predictions, own))

    Engine._mean = local  # type: ignore[method-assign]


def replicated_squares_counted_by_every_rank() -> None:
    """The norm takes in the tensors that all tensor ranks hold once for each of them."""
    measure = Engine.measure

    def counted(self: Engine, *, checksums: bool) -> Measured:
        right, ranks = measure(self, checksums=checksums), self.mesh.layout.tensor
        squares = {
            key: square if self.catalogue[key].axis is not None else square * ranks
            for key, square in right.squares.items()
        }
        return replace(right, squares=squares)

    Engine.measure = counted  # type: ignore[method-assign]


def last_microbatch_dropped() -> None:
    """Where there are several ranks, the last microbatch of each data shard counts for nothing."""
    run = Pipeline.run

    def dropping(
        self: Pipeline, actions: Any, microbatches: Sequence[Microbatch], **kinds: bool
    ) -> Any:
        if self.mesh.layout.ranks > 1:
            microbatches = [
                m if i % 2 == 0
                else replace(m, targets=[torch.full_like(t, IGNORED) for t in m.targets])
                for i, m in enumerate(microbatches)
            ]  # fmt: skip
        return run(self, actions, microbatches, **kinds)

    Pipeline.run = dropping  # type: ignore[method-assign]


class _Unsummed(Span):
    def sum(self, x: Tensor) -> Tensor:
        return x


def norms_not_summed_over_slices() -> None:
    """Each tensor rank keeps the norm gradients that its own sequence slices gave."""
    init = BucketGradient.__init__

    def unsummed(self: BucketGradient, bucket: Bucket, *, tensor: Span | None, **rest: Any) -> None:
        if tensor is not None:
            tensor = _Unsummed(tensor.shards, tensor.ranks, tensor.rank, tensor.group)
        init(self, bucket, tensor=tensor, **rest)

    BucketGradient.__init__ = unsummed  # type: ignore[method-assign]


def averaged_over_ranks() -> None:
    """The gradient, already a mean over all predictions, divided by the data ranks again."""
    mean = Engine._mean

    def averaged(self: Engine, *arguments: Any) -> LossSums:
        found = mean(self, *arguments)
        return replace(found, predictions=found.predictions * self.mesh.layout.data)

    Engine._mean = averaged  # type: ignore[method-assign]


def stale_replica() -> None:
    """The second data rank computes on with the weights of before the update, save its own cut."""
    publish = Bucket.publish

    def late(self: Bucket) -> None:
        before = self.weights.clone()
        publish(self)
        if self.replicas.data.rank == 1:
            self.weights[: self.own.start] = before[: self.own.start]
            self.weights[self.own.stop :] = before[self.own.stop :]

    Bucket.publish = late  # type: ignore[method-assign]
