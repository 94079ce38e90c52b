"""Bytes of memory per rank, by what they are for.

The activations follow Korthikanti et al. (2022) with what our layers keep: linear layers the
sequence slices of their input, gathered again in the backward pass; norms their input in fp32;
attention queries, keys, values, its output and the logarithm of its sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_core.collectives import ContextSpan
from megatron_core.config import LoraConfig
from megatron_core.parallel.schedule import Action
from megatron_core.planning.job import Job
from megatron_core.planning.parameters import (
    Weights,
    changed_weights,
    embedding_weights,
    head_weights,
    layer_weights,
)


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank at its fullest.

    Attributes:
        weights: In the precision of the model, and the table of rotary positions.
        optimizer: fp32 main weights, where these are not the model's, and both moments: ZeRO-1.
        gradients: fp32 sums of microbatches, one per context chunk, and the tree's nodes.
        activations: Kept for the backward pass, of all microbatches in flight.
        workspace: The largest temporaries.
        exchange: Gradients that are sent and received at the end, when these three are gone.
    """

    weights: float
    optimizer: float
    gradients: float
    activations: float
    workspace: float
    exchange: float

    @property
    def step(self) -> float:
        """The most of a step beside weights and optimizer."""
        return max(self.gradients + self.activations + self.workspace, self.exchange)

    @property
    def total(self) -> float:
        """The most there is at once."""
        return self.weights + self.optimizer + self.step


def memory(job: Job) -> list[Memory]:
    """What each pipeline rank needs; the ranks of a pipeline stage are alike."""
    found = []
    for rank, actions in enumerate(job.actions()):
        mine = range(rank, len(job.stages), job.layout.pipeline)
        weights = stage_weights(job, mine)
        found.append(
            Memory(
                weights=_weights(job, weights) + _angles(job) * len(mine),
                optimizer=_optimizer(job, weights),
                gradients=_gradients(job, weights),
                activations=_in_flight(job, actions),
                workspace=max(_workspace(job, stage) for stage in mine),
                exchange=_exchange(job, weights),
            )
        )
    return found


# State


@dataclass(frozen=True)
class StageWeights:
    """The weights of the stages of one rank.

    Attributes:
        held: Trained, stored here, also copies of another stage's embedding.
        summed: Whose gradients are summed here: tied weights count at both uses.
        owned: With optimizer state.
        frozen: Stored here alone; matrices that low-rank changes are merged into count twice.
    """

    held: Weights
    summed: Weights
    owned: Weights
    frozen: Weights


def stage_weights(job: Job, stages: range) -> StageWeights:
    """The weights of the virtual ``stages`` that one rank has."""
    a, none, last = job.model, Weights(), len(job.stages) - 1 in stages
    blocks = sum(len(job.stages[stage]) for stage in stages)

    def parts(*, frozen: bool) -> Weights:
        found = layer_weights(a, job.adapter, frozen=frozen) * blocks
        if 0 in stages:
            found += embedding_weights(a, job.adapter, frozen=frozen)
        if last:
            found += head_weights(a, job.adapter, frozen=frozen, logits=job.logits)
        return found

    tied = last and a.tied_embeddings and job.logits
    once = Weights(split=-a.vocabulary * a.hidden) if tied else none
    summed = parts(frozen=False)
    if job.adapter is not None:
        frozen = parts(frozen=True) + changed_weights(a, job.adapter) * blocks
        return StageWeights(summed, summed, summed, frozen + (once if 0 in stages else none))
    held = summed + once if 0 in stages else summed
    return StageWeights(held, summed, summed + once, none)


def _weights(job: Job, weights: StageWeights) -> int:
    """All that are stored; adapters are kept in fp32."""
    return job.width * _local(job, weights.frozen) + job.trained_width * _local(job, weights.held)


def _angles(job: Job) -> int:
    """The table of rotary positions, fp32."""
    a = job.model
    return 0 if (a.position_embedding == "learned") else 8 * a.positions * a.head_size


def _local(job: Job, weights: Weights) -> int:
    return weights.per_rank(tensor=job.layout.tensor, expert=job.layout.expert)


def _owned(job: Job, weights: Weights) -> float:
    """Weights of which this rank keeps optimizer state."""
    layout = job.layout
    sparse = _local(job, weights.sparse) * layout.expert
    return (_local(job, weights.dense) + sparse) / (layout.data * layout.context)


def _optimizer(job: Job, weights: StageWeights) -> float:
    main = 0 if job.trained_width == 4 else 4
    return (main + 8) * _owned(job, weights.owned)


def _gradients(job: Job, weights: StageWeights) -> float:
    layout = job.layout
    shards = job.data // layout.data
    local = _local(job, weights.summed)
    # Norms have a sum for each sequence slice, experts one for each rank that sends them rows.
    slices = weights.summed.sliced * (job.shards - 1 if job.tensor > 1 else 0)
    senders = _local(job, weights.summed.sparse) * (layout.expert - 1)
    nodes = local / layout.context * (shards.bit_length() - 1)
    return 4 * (job.chunks * (local + slices + senders) + nodes)


def _exchange(job: Job, weights: StageWeights) -> float:
    own = 4 * _local(job, weights.summed) / job.layout.context
    return own * (2 if job.layout.data > 1 else 1)


# Activations


def _in_flight(job: Job, actions: Sequence[Action]) -> float:
    """The most that the microbatches in flight keep, in the order of ``actions``."""
    kept = {stage: saved(job, stage) for stage in {action.stage for action in actions}}
    split = any(action.kind == "weight" for action in actions)
    later = {stage: deferred(job, stage) if split else 0.0 for stage in kept}
    now = most = 0.0
    for action in actions:
        if action.kind == "forward":
            now += kept[action.stage]
        elif action.kind == "backward":
            now += later[action.stage] - kept[action.stage]
        else:
            now -= later[action.stage]
        most = max(most, now)
    return most


def saved(job: Job, stage: int) -> float:
    """What one microbatch keeps on one rank between the passes of the virtual ``stage``."""
    first, last = stage == 0, stage == len(job.stages) - 1
    layers = len(job.stages[stage])
    total = layers * (_block_input(job) if job.recompute == "full" else _block(job))
    residual = job.chunks * job.tokens * job.width * job.model.hidden / job.layout.tensor
    total += residual * ((not first) + (not last))  # what was received and what was sent
    if first:
        total += 8 * job.chunks * job.tokens  # the tokens themselves
    if last:
        total += _head(job)
    return total


def _block_input(job: Job) -> float:
    return job.chunks * job.tokens * job.width * job.model.hidden / job.layout.tensor


def _norm(job: Job) -> float:
    """The input in fp32, its scale, the output, and where its weight is trained the normalized
    input, of one chunk."""
    kept = (2 if job.adapter is None else 1) * job.width
    return job.tokens / job.layout.tensor * (4 + (4 + kept) * job.model.hidden)


def _block(job: Job) -> float:
    """One block, all local chunks."""
    a = job.model
    each = 2 * _norm(job) + _feed_forward(job)
    if job.dropout:
        each += 2 * job.tokens * a.hidden / job.layout.tensor  # a byte per mask
    return job.chunks * each + _attention(job)


def _feed_forward(job: Job) -> float:
    """Both inputs of the gate, its activation and the product, of one chunk.

    Experts keep also their rows, before and after, and what the router chose.
    """
    a, tensor = job.model, job.layout.tensor
    inner = 4 if a.gated else 2
    if a.experts is None:
        return inner * job.width * job.tokens * a.ffn / tensor
    rows, count = job.tokens * a.experts.chosen, a.experts.count
    kept = job.width * ((1 + job.shards) * a.hidden + inner * a.experts.ffn / tensor) + 20
    return rows * kept + job.tokens / tensor * (8 * count + 12 * a.experts.chosen + 8)


def _attention(job: Job) -> float:
    """Queries, keys, values, output and logarithms of sums, all local chunks.

    Keys and values are those that a chunk's queries see, repeated for each query head of a group.
    """
    a, tensor = job.model, job.layout.tensor
    length = job.tokens // job.microbatch
    tables = 0 if job.width == 4 else 4 * length * a.head_size * job.shards
    fixed = job.tokens * job.width * 2 * a.query_width / tensor + job.width * tables
    chunks = visible_chunks(job)
    whole = 2 * job.tokens * job.context * job.width * a.key_width / tensor
    if job.recompute == "selective":
        return job.chunks * fixed + whole
    fixed += 4 * job.tokens * a.heads / tensor
    if a.heads == a.kv_heads:
        keys = whole
    else:
        keys = sum(2 * job.tokens * seen * job.width * a.query_width / tensor for seen in chunks)
    masks = 0.0
    if job.apart:
        masks = sum(length * job.tokens * seen * job.width * job.shards for seen in chunks)
    elif a.causal and job.context > 1:
        masks = sum(length * length * seen * job.width * job.shards for seen in chunks if seen > 1)
    return job.chunks * fixed + keys + masks


def visible_chunks(job: Job) -> list[int]:
    """How many chunks of keys each local chunk sees, on the rank that sees most."""
    ranks = job.layout.context
    if not job.model.causal:
        return [job.context] * job.chunks
    spans = [ContextSpan(job.context, ranks, rank).chunks for rank in range(ranks)]
    return max(([chunk + 1 for chunk in chunks] for chunks in spans), key=sum)


def _head(job: Job) -> float:
    """The final norm, and what the cross-entropy keeps, all local chunks.

    On a grid of several tensor shards that is the logits, otherwise the gradient of the norm's
    output in place of that.
    """
    kept = 0.0
    if job.logits and job.tensor > 1:
        kept = job.width * job.tokens * job.model.vocabulary / job.layout.tensor + 8 * job.tokens
    return job.chunks * (_norm(job) + kept)


def deferred(job: Job, stage: int) -> float:
    """What one microbatch keeps between its two backward passes in a zero-bubble schedule.

    The inputs of the linear layers, gathered, and the gradients of their outputs.
    """
    a, tensor = job.model, job.layout.tensor
    chosen = 1 if a.experts is None else a.experts.chosen
    ffn = a.ffn if a.experts is None else a.experts.ffn
    block = (
        2 * (1 + chosen) * a.hidden
        + (2 * a.query_width + 2 * a.key_width + 3 * chosen * ffn) / tensor
    )
    total = len(job.stages[stage]) * block
    if stage == len(job.stages) - 1:
        total += (a.hidden + a.vocabulary / tensor) if job.tensor > 1 else 0
    return job.chunks * job.tokens * job.width * total


def _workspace(job: Job, stage: int) -> float:
    """The largest temporaries, of a block's backward pass or of the logits.

    By the former the head has given up what it kept. With full recompute a block is there again.
    """
    a, tensor = job.model, job.layout.tensor
    ffn = a.ffn if a.experts is None else a.experts.ffn * a.experts.chosen
    block = job.tokens * ((4 + job.width) * ffn / tensor + 4 * a.hidden)
    last = stage == len(job.stages) - 1
    if job.width < 4:
        # In fp32 a changed matrix's input and gradient, or final hidden states that are pooled.
        changed = a.hidden + max(a.query_width, ffn) / tensor
        block += job.tokens * max(
            4 * changed if isinstance(job.adapter, LoraConfig) else 0,
            8 * a.hidden if last and not job.logits else 0,
        )
    if job.recompute == "full":
        # In fp32 the first norm keeps the block's input itself, which is there already.
        block += _block(job) - (_block_input(job) if job.width == 4 else 0)
    if not (last and job.logits):
        return block
    if job.tensor == 1:
        # Logarithms of probabilities, gradients of these, of the logits and of what made them.
        each = (12.0 if job.width == 4 else 14.0) * a.vocabulary + 4 * a.hidden
        logits = each * job.tokens
    else:
        logits = 8 * job.tokens * a.vocabulary / job.tensor
        if job.width < 4:
            logits += 4 * job.tokens * a.vocabulary / tensor  # all local shards in fp32
    return max(block - _head(job), logits)
