"""Bytes that ranks exchange in a step, by the link they go over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from megatron_core.planning.job import Job
from megatron_core.planning.memory import stage_weights
from megatron_core.planning.software import Software

Dimension = Literal["tensor", "context", "expert", "pipeline", "data"]
Pattern = Literal["ring", "exchange", "send"]
Direction = Literal["forward", "backward"]


@dataclass(frozen=True)
class Transfer:
    """One collective or message, as one rank sends it.

    Attributes:
        dimension: The ranks that take part differ along this one.
        what: What travels.
        pattern: ``ring`` is an all-gather, a reduce-scatter or a broadcast, ``exchange`` an
            all-to-all, ``send`` a message to a neighbour.
        bytes: That the rank sends, and receives, each time.
        times: How often in a step.
    """

    dimension: Dimension
    what: str
    pattern: Pattern
    bytes: float
    times: float = 1

    @property
    def total(self) -> float:
        """Bytes of a step."""
        return self.bytes * self.times


def ranks_of(job: Job, dimension: Dimension) -> tuple[int, int]:
    """How many ranks exchange along ``dimension``, and how far apart these are numbered."""
    layout = job.layout
    inner = layout.tensor * layout.context
    return {
        "tensor": (layout.tensor, 1),
        "context": (layout.context, layout.tensor),
        "expert": (layout.expert, inner),
        "data": (layout.data, inner),
        "pipeline": (layout.pipeline, inner * layout.data),
    }[dimension]


def block_transfers(job: Job, software: Software, direction: Direction) -> list[Transfer]:
    """Those of one block and one microbatch, all local chunks."""
    found = [*_tensor(job, software, direction), *_context(job, direction), *_expert(job)]
    return [transfer for transfer in found if transfer.bytes]


def edge_transfers(
    job: Job, software: Software, stage: int, direction: Direction
) -> list[Transfer]:
    """Those of the embedding and of the head, where ``stage`` has them, for one microbatch."""
    ranks = job.layout.tensor
    share = job.tokens * job.architecture.hidden * (ranks - 1) / ranks
    found = []
    if stage == 0:
        found.append(Transfer("tensor", "embedded tokens", "ring", share * job.width, job.chunks))
    if stage == len(job.stages) - 1:
        found += [
            replace(transfer, times=transfer.times / 2)
            for transfer in _tensor(job, software, direction)
            if direction == "backward" or transfer.what == "activations"
        ]
    return [transfer for transfer in found if transfer.bytes]


def _tensor(job: Job, software: Software, direction: Direction) -> Iterator[Transfer]:
    """Before two pairs of layers the sequence is gathered, behind them partial sums are added."""
    ranks = job.layout.tensor
    share = job.tokens * job.architecture.hidden * (ranks - 1) / ranks
    pairs = 2 * job.chunks
    gathers = 2 if direction == "backward" and software.gathers_again else 1
    yield Transfer("tensor", "activations", "ring", share * job.width, pairs * gathers)
    # Sums of our own fixed order take an all-to-all and are added locally.
    pattern: Pattern = "exchange" if software.fixed_sums else "ring"
    yield Transfer("tensor", "partial sums", pattern, share * software.partial_bytes, pairs)


def _context(job: Job, direction: Direction) -> Iterator[Transfer]:
    """Keys and values of all chunks; backward their gradients, in fp32."""
    ranks = job.layout.context
    share = job.chunks * job.tokens * job.architecture.key / job.layout.tensor * (ranks - 1)
    if direction == "forward":
        yield Transfer("context", "keys and values", "ring", share * job.width, 2)
    else:
        yield Transfer("context", "gradients of keys and values", "exchange", share * 4, 2)


def _expert(job: Job) -> Iterator[Transfer]:
    """Rows to the ranks of their experts and back, if the router is balanced."""
    a, ranks = job.architecture, job.layout.expert
    if a.experts is None:
        return
    rows = job.chunks * job.tokens * a.experts.chosen
    share = rows * a.hidden * (ranks - 1) / ranks
    yield Transfer("expert", "tokens to experts", "exchange", share * job.width)
    # Each local tensor shard's results are partial sums, in fp32.
    partial = job.shards * (4 if job.tensor > 1 else job.width)
    yield Transfer("expert", "results of experts", "exchange", share * partial)


def message(job: Job, software: Software) -> Transfer:
    """The residual stream of a microbatch between two stages."""
    count = job.chunks * job.tokens * job.architecture.hidden * job.width
    slices = job.layout.tensor if software.sliced_pipeline else 1
    return Transfer("pipeline", "residual stream", "send", count / slices)


def end_transfers(job: Job, software: Software, stages: range) -> list[Transfer]:
    """Those at the end of a step: gradients to their owners, weights from them."""
    layout = job.layout
    weights = stage_weights(job, stages)
    summed = weights.summed.per_rank(tensor=layout.tensor, expert=layout.expert)
    held = weights.held.per_rank(tensor=layout.tensor, expert=layout.expert)
    shards = job.data // layout.data
    others = (layout.data - 1) / layout.data
    found = []
    if layout.context > 1:
        part = summed * 4 * (layout.context - 1) / layout.context
        found.append(Transfer("context", "gradients", "exchange", part, shards))
    if not software.sharded_optimizer:
        part = summed * software.gradient_bytes * others
        found.append(Transfer("data", "gradients", "ring", part, 2))
    else:
        part = summed / layout.context * software.gradient_bytes * others
        found.append(Transfer("data", "gradients", "exchange", part))
        replicas = layout.data * layout.context
        part = held * job.width * (replicas - 1) / replicas
        found.append(Transfer("data", "weights", "ring", part))
    found += _tied(job, software, stages)
    return [transfer for transfer in found if transfer.bytes]


def _tied(job: Job, software: Software, stages: range) -> Iterator[Transfer]:
    """Between the first and the last stage, the owned cut of the table both use."""
    a, layout = job.architecture, job.layout
    if not a.tied_embeddings or layout.pipeline == 1:
        return
    cuts = layout.data * layout.context if software.sharded_optimizer else 1
    own = a.vocabulary * a.hidden / layout.tensor / cuts
    if 0 in stages:
        yield Transfer("pipeline", "tied embedding", "send", own * job.width)
    if len(job.stages) - 1 in stages:
        yield Transfer("pipeline", "gradient of the tied embedding", "send", own * 4)


def step_transfers(job: Job, software: Software, rank: int) -> list[Transfer]:
    """All of a step, on one rank of the pipeline."""
    stages = range(rank, len(job.stages), job.layout.pipeline)
    layers = sum(len(job.stages[stage]) for stage in stages)
    passes: list[Direction] = ["forward", "backward"]
    if job.recompute == "full":
        passes.append("forward")
    found = [
        replace(transfer, times=transfer.times * layers * job.microbatches)
        for direction in passes
        for transfer in block_transfers(job, software, direction)
    ]
    found += [
        replace(transfer, times=transfer.times * job.microbatches)
        for stage in stages
        for direction in passes[:2]
        for transfer in edge_transfers(job, software, stage, direction)
    ]
    sends = sum((stage > 0) + (stage < len(job.stages) - 1) for stage in stages)
    if job.layout.pipeline > 1:
        between = message(job, software)
        found.append(replace(between, times=sends * job.microbatches))
    found += end_transfers(job, software, stages)
    return _merged(found)


def _merged(transfers: list[Transfer]) -> list[Transfer]:
    """One entry for each kind of transfer."""
    merged: dict[tuple[object, ...], Transfer] = {}
    for t in transfers:
        key = (t.dimension, t.what, t.pattern, t.bytes)
        times = merged[key].times if key in merged else 0
        merged[key] = replace(t, times=t.times + times)
    return list(merged.values())
