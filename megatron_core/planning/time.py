"""How long a step takes: products, memory and links, then the order of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from megatron_core.parallel.schedule import Action, simulate
from megatron_core.planning.hardware import Hardware
from megatron_core.planning.job import Job
from megatron_core.planning.memory import stage_weights, visible_chunks
from megatron_core.planning.parameters import layer_weights
from megatron_core.planning.software import Software
from megatron_core.planning.traffic import (
    Direction,
    Transfer,
    block_transfers,
    edge_transfers,
    end_transfers,
    message,
    ranks_of,
)


@dataclass(frozen=True)
class Work:
    """Seconds of a rank by what it does."""

    products: float = 0.0
    elementwise: float = 0.0
    tensor: float = 0.0
    context: float = 0.0
    expert: float = 0.0
    pipeline: float = 0.0

    @property
    def total(self) -> float:
        """All of it, one after the other."""
        return float(sum(getattr(self, field.name) for field in fields(self)))

    def __add__(self, other: Work) -> Work:
        names = [field.name for field in fields(self)]
        return Work(*(getattr(self, name) + getattr(other, name) for name in names))

    def __mul__(self, times: float) -> Work:
        return Work(*(getattr(self, field.name) * times for field in fields(self)))


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step.

    Attributes:
        work: Mean over the ranks of the pipeline.
        bubble: What the ranks wait for each other, mean.
        data: Exchange of gradients and weights that nothing hides.
        optimizer: Update of the weights.
    """

    work: Work
    bubble: float
    data: float
    optimizer: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.work.total + self.bubble + self.data + self.optimizer


def step_time(job: Job, hardware: Hardware, software: Software) -> StepTime:
    """The estimate for one optimizer step."""
    clock = _Clock(job, hardware, software)
    actions = job.actions()
    costs = {
        Action(kind, stage, 0): clock.action(Action(kind, stage, 0))
        for kind, stage in {(a.kind, a.stage) for mine in actions for a in mine}
    }
    of = {action: work.total for action, work in costs.items()}
    timeline = simulate(actions, lambda action: of[Action(action.kind, action.stage, 0)])
    work = sum(
        (costs[Action(a.kind, a.stage, 0)] for mine in actions for a in mine), start=Work()
    ) * (1 / len(actions))
    ends = [
        clock.end(range(rank, len(job.stages), job.layout.pipeline))
        for rank in range(job.layout.pipeline)
    ]
    data, optimizer = max(ends, key=sum)
    bubble = max(0.0, timeline.makespan - work.total)  # rounding may leave less than nothing
    return StepTime(work, bubble, data, optimizer)


class _Clock:
    """Prices the parts of a step."""

    def __init__(self, job: Job, hardware: Hardware, software: Software) -> None:
        self.job, self.hardware, self.software = job, hardware, software
        self.moved = software.elementwise(job.precision)

    def action(self, action: Action) -> Work:
        """One microbatch in one stage."""
        job, stage = self.job, action.stage
        layers = len(job.stages[stage])
        split = job.layout.schedule == "zero_bubble"
        if action.kind == "weight":
            return self._weights() * layers + self._edges(stage, "weight")
        if action.kind == "forward":
            return self._forward() * layers + self._edges(stage, "forward") + self._message(action)
        work = self._backward() * layers + self._edges(stage, "backward") + self._message(action)
        if not split:
            work += self._weights() * layers + self._edges(stage, "weight")
        if job.recompute == "full":
            work += self._forward() * layers
        elif job.recompute == "selective":
            work += self._attention("forward") * layers
        return work

    # Blocks

    def _forward(self) -> Work:
        products = sum(self._product(*shape) for shape in self._shapes())
        return (
            Work(products=products)
            + self._attention("forward")
            + self._elementwise("forward")
            + self._links(block_transfers(self.job, self.software, "forward"))
        )

    def _backward(self) -> Work:
        products = sum(self._product(n, depth, width) for n, width, depth in self._shapes())
        return (
            Work(products=products)
            + self._attention("backward")
            + self._elementwise("backward")
            + self._links(block_transfers(self.job, self.software, "backward"))
        )

    def _weights(self) -> Work:
        """Gradients of a block's weights, added to their sums."""
        job, tensor = self.job, self.job.layout.tensor
        products = sum(self._product(width, depth, n) for n, width, depth in self._shapes())
        local = layer_weights(job.model).per_rank(tensor=tensor, expert=job.layout.expert)
        moved = job.chunks * local * self.moved.accumulate
        return Work(products=products, elementwise=self.hardware.moving(moved))

    def _product(self, rows: int, columns: int, depth: int) -> float:
        return self.hardware.product(rows, columns, depth, self.job.precision)

    def _shapes(self) -> list[tuple[int, int, int]]:
        """``[n, depth] @ [depth, width]`` of every linear layer of a block on one rank."""
        job, a, shards = self.job, self.job.model, self.job.tensor
        query, key, n = a.query_width // shards, a.key_width // shards, job.tokens
        into = [query + 2 * key] if self.software.fused_projections else [query, key, key]
        shapes = [(n, width, a.hidden) for width in into] + [(n, a.hidden, query)]
        shapes += self._feed_forward(n, shards)
        return shapes * (job.chunks * job.shards)

    def _feed_forward(self, n: int, shards: int) -> list[tuple[int, int, int]]:
        a = self.job.model
        ffn = (a.ffn if a.experts is None else a.experts.ffn) // shards
        into = [ffn] * (2 if a.gated else 1)
        if self.software.fused_projections:
            into = [sum(into)]
        if a.experts is None:
            return [(n, width, a.hidden) for width in into] + [(n, a.hidden, ffn)]
        rows = max(1, n * a.experts.chosen // a.experts.count)
        each = [(rows, width, a.hidden) for width in into] + [(rows, a.hidden, ffn)]
        return [(n, a.experts.count, a.hidden), *each * a.experts.count]

    def _attention(self, direction: Direction) -> Work:
        """Queries with keys, scores with values; the backward pass has five products for two."""
        job, a, hardware = self.job, self.job.model, self.hardware
        heads, length = a.heads // job.tensor, job.sequence // job.context
        factor = 1.0 if direction == "forward" else 2.5
        seconds = moved = 0.0
        for seen in visible_chunks(job):
            keys = seen * length
            if self.software.fused_attention:
                pairs = length * keys
                if a.causal and self.software.skips_masked:
                    pairs -= length * (length - 1) // 2
                flops = 4.0 * job.microbatch * heads * a.head_size * pairs * factor
                seconds += job.shards * hardware.fused_attention(flops, job.precision)
                continue
            each = job.microbatch * heads
            product = hardware.product(length, keys, a.head_size, job.precision, count=each)
            product += hardware.product(length, a.head_size, keys, job.precision, count=each)
            seconds += job.shards * product * (1 if direction == "forward" else 2)
            passes = getattr(self.moved.scores, direction)
            moved += job.shards * passes * each * length * keys * job.width
        return Work(products=seconds, elementwise=hardware.moving(moved))

    def _elementwise(self, direction: Direction) -> Work:
        job, a, tensor = self.job, self.job.model, self.job.layout.tensor
        ffn = a.ffn if a.experts is None else a.experts.ffn * a.experts.chosen
        slices = tensor if self.software.sequence_parallel else 1
        moved = (
            getattr(self.moved.residual, direction) * a.hidden / slices
            + getattr(self.moved.projected, direction) * (a.query_width + a.key_width) / tensor
            + getattr(self.moved.ffn, direction) * ffn / tensor
        )
        count = job.chunks * job.tokens * job.width * moved
        return Work(elementwise=self.hardware.moving(count))

    # Ends of the model

    def _edges(self, stage: int, part: str) -> Work:
        """Embedding and head, where ``stage`` has them."""
        job, a, tensor = self.job, self.job.model, self.job.layout.tensor
        work = Work()
        if part != "weight":
            direction: Direction = "forward" if part == "forward" else "backward"
            work += self._links(edge_transfers(job, self.software, stage, direction))
        if stage == 0 and part == "weight":
            table = a.vocabulary * a.hidden / tensor
            moved = job.chunks * table * (4 + self.moved.accumulate)
            work += Work(elementwise=self.hardware.moving(moved))
        if stage == len(job.stages) - 1:
            shape = {
                "forward": (job.tokens, a.vocabulary // job.tensor, a.hidden),
                "backward": (job.tokens, a.hidden, a.vocabulary // job.tensor),
                "weight": (a.vocabulary // job.tensor, a.hidden, job.tokens),
            }[part]
            moved = self.moved.logits / 2 * job.tokens * a.vocabulary / tensor
            if part == "weight":
                moved = self.moved.accumulate * a.vocabulary * a.hidden / tensor
            work += Work(
                products=job.chunks * job.shards * self._product(*shape),
                elementwise=job.chunks * self.hardware.moving(moved),
            )
        return work

    # Links

    def _message(self, action: Action) -> Work:
        """The time to receive, and to send when that blocks."""
        job, last = self.job, len(self.job.stages) - 1
        receives = action.stage > 0 if action.kind == "forward" else action.stage < last
        sends = action.stage < last if action.kind == "forward" else action.stage > 0
        if job.layout.pipeline == 1:
            return Work()
        seconds = self._seconds(message(job, self.software))
        times = receives + (sends and self.software.blocking_sends)
        work = Work(pipeline=times * seconds)
        if receives and self.software.sliced_pipeline and not self.software.sequence_parallel:
            tensor = job.layout.tensor
            whole = job.chunks * job.tokens * job.model.hidden * job.width
            gather = Transfer("tensor", "", "ring", whole * (tensor - 1) / tensor)
            work += Work(pipeline=self._seconds(gather) if tensor > 1 else 0.0)
        return work

    def _links(self, transfers: Sequence[Transfer]) -> Work:
        work = Work()
        for t in transfers:
            work += Work(**{t.dimension: self._seconds(t) * t.times})
        return work

    def _seconds(self, transfer: Transfer) -> float:
        return transfer_seconds(transfer, self.job, self.hardware)

    # End of the step

    def end(self, stages: range) -> tuple[float, float]:
        """Exposed exchange of gradients and weights, and the optimizer, of one rank."""
        job, software = self.job, self.software
        layout = job.layout
        hidden = exposed = 0.0
        for transfer in end_transfers(job, software, stages):
            seconds = self._seconds(transfer) * transfer.times
            overlaps = software.overlapped_gradients and transfer.what == "gradients"
            hidden += seconds if overlaps else 0.0
            exposed += 0.0 if overlaps else seconds
        if hidden:
            last = sum(self.action(Action("backward", stage, 0)).total for stage in stages)
            exposed += max(0.0, hidden - last)
        weights = stage_weights(job, stages).owned
        owned = weights.per_rank(tensor=layout.tensor, expert=layout.expert)
        if software.sharded_optimizer:
            owned //= layout.data * layout.context
        return exposed, self.hardware.moving(owned * self.moved.optimizer)


def transfer_seconds(transfer: Transfer, job: Job, hardware: Hardware) -> float:
    """How long one transfer takes, once.

    A ring over several nodes enters each by as many links as it has ranks there; in an
    all-to-all each rank's link carries what is for other nodes.
    """
    ranks, stride = ranks_of(job, transfer.dimension)
    here = max(1, min(ranks, hardware.ranks_per_node // stride))
    inside, between = hardware.inside.bandwidth * 1e9, hardware.between.bandwidth * 1e9
    crosses = ranks > here
    latency = (hardware.between if crosses else hardware.inside).latency * 1e-6
    if transfer.pattern == "send":
        return transfer.bytes / (between if crosses else inside) + latency
    if transfer.pattern == "ring":
        reached = min(inside, between * here) if crosses else inside
        return transfer.bytes / reached + latency * (ranks - 1)
    outside = (ranks - here) / (ranks - 1)
    slowest = max((1 - outside) / inside, outside / between)
    return transfer.bytes * slowest + latency
