"""Bytes that ranks exchange in a step, by the link they go over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from megatron_core.planning.job import Job
from megatron_core.planning.memory import stage_weights
from megatron_core.planning.parameters import Weights
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
    share, sums = _slices(job), _sums(software)
    found = []
    if stage == 0:
        # One shard has each token's row, the others zeros.
        pattern = sums if direction == "forward" else "ring"
        found.append(Transfer("tensor", "embedded tokens", pattern, share * job.width, job.chunks))
    if stage == len(job.stages) - 1:
        if direction == "forward" or software.gathers_again:
            found.append(Transfer("tensor", "activations", "ring", share * job.width, job.chunks))
        if direction == "backward":
            part = share * software.partial_bytes
            found.append(Transfer("tensor", "partial sums", sums, part, job.chunks))
    return [transfer for transfer in found if transfer.bytes]


def _slices(job: Job) -> float:
    """Numbers of a chunk's residual stream that are on the other tensor ranks."""
    ranks = job.layout.tensor
    return job.tokens * job.model.hidden * (ranks - 1) / ranks


def _sums(software: Software) -> Pattern:
    """Sums in a fixed order take an all-to-all and are added locally."""
    return "exchange" if software.fixed_sums else "ring"


def _tensor(job: Job, software: Software, direction: Direction) -> Iterator[Transfer]:
    """Before two pairs of layers the sequence is gathered, behind them partial sums are added."""
    share, pairs = _slices(job), 2 * job.chunks
    gathers = 2 if direction == "backward" and software.gathers_again else 1
    yield Transfer("tensor", "activations", "ring", share * job.width, pairs * gathers)
    part = share * software.partial_bytes
    yield Transfer("tensor", "partial sums", _sums(software), part, pairs)


def _context(job: Job, direction: Direction) -> Iterator[Transfer]:
    """Keys and values of all chunks; backward their gradients, in fp32."""
    ranks = job.layout.context
    share = job.chunks * job.tokens * job.model.key_width / job.layout.tensor * (ranks - 1)
    if direction == "forward":
        yield Transfer("context", "keys and values", "ring", share * job.width, 2)
    else:
        yield Transfer("context", "gradients of keys and values", "exchange", share * 4, 2)


def _expert(job: Job) -> Iterator[Transfer]:
    """Rows to the ranks of their experts and back, if the router is balanced."""
    a, ranks = job.model, job.layout.expert
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
    count = job.chunks * job.tokens * job.model.hidden * job.width
    slices = job.layout.tensor if software.sliced_pipeline else 1
    return Transfer("pipeline", "residual stream", "send", count / slices)


def end_transfers(job: Job, software: Software, stages: range) -> list[Transfer]:
    """Those at the end of a step: gradients to their owners, weights from them."""
    layout = job.layout
    weights = stage_weights(job, stages)
    summed, held = weights.summed, weights.held
    found = [
        # An expert is on fewer data ranks, by as many as share the experts.
        *_replicated(job, software, summed.dense, held.dense, layout.data),
        *_replicated(job, software, summed.sparse, held.sparse, layout.data // layout.expert),
        *_tied(job, software, stages),
    ]
    return [transfer for transfer in found if transfer.bytes]


def _replicated(
    job: Job, software: Software, summed: Weights, held: Weights, ranks: int
) -> Iterator[Transfer]:
    """Of weights that ``ranks`` data ranks have, and all context ranks."""
    layout = job.layout
    sums = summed.per_rank(tensor=layout.tensor, expert=layout.expert)
    shards = job.data // layout.data
    chunks = sums * 4 * (layout.context - 1) / layout.context
    yield Transfer("context", "gradients", _sums(software), chunks, shards)
    others = (ranks - 1) / ranks
    if not software.sharded_optimizer:
        yield Transfer("data", "gradients", "ring", sums * software.gradient_bytes * others, 2)
        return
    cut = sums / layout.context * software.gradient_bytes * others
    yield Transfer("data", "gradients", _sums(software), cut)
    copies = held.per_rank(tensor=layout.tensor, expert=layout.expert) * job.width
    replicas = ranks * layout.context
    yield Transfer("data", "weights", "ring", copies * (replicas - 1) / replicas)


def _tied(job: Job, software: Software, stages: range) -> Iterator[Transfer]:
    """Between the first and the last stage, the owned cut of the table both use."""
    a, layout = job.model, job.layout
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
