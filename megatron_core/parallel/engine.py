"""The arithmetic of one step on any layout: gradients, their norms, the update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from kernels.cross_entropy import IGNORED
from kernels.registry import load
from megatron_core.collectives import peers
from megatron_core.config import ModelConfig, TrainingConfig
from megatron_core.model import (
    Documents,
    Draw,
    GridShard,
    LanguageModel,
    ParameterShard,
    Place,
    Segments,
    Share,
    TaskModel,
    changed_matrices,
    parameter_shards,
)
from megatron_core.parallel.backends import DTYPES, chosen_kernels
from megatron_core.parallel.batch import Batch, LossSums, MeanLoss
from megatron_core.parallel.bucket import Bucket, make_buckets
from megatron_core.parallel.gradients import ChunkLeaf, StepGradients
from megatron_core.parallel.measure import Measured, measure, speaks_for
from megatron_core.parallel.mesh import Mesh
from megatron_core.parallel.pipeline import Microbatch, Pipeline
from megatron_core.parallel.schedule import forward_actions, pipeline_actions, stage_layers
from megatron_core.regions import Region, region


@dataclass(frozen=True)
class OwnedRun:
    """Part of one grid shard of the state, whose kind is weights, first or second moment."""

    kind: str
    tensor: str
    shard: int
    offset: int
    data: Tensor


class Engine:
    """A model on the ranks of a mesh: the shares of it that this rank computes and owns."""

    def __init__(
        self,
        build: Callable[[Share], LanguageModel | TaskModel],
        config: TrainingConfig,
        mesh: Mesh,
        *,
        model: ModelConfig,
    ) -> None:
        """
        Args:
            build: Makes a share of the model, with its initial weights.
            model: The architecture.

        Raises:
            ConfigError: the pipeline has more stages than the model has layers.
        """
        self.config, self.mesh = config, mesh
        self.choices = chosen_kernels(config)
        self.kernels = load({one.operation: one.backend for one in self.choices})
        self.tensor, self.context = mesh.tensor(config.grid), mesh.context(config.grid)
        layout, dtype = mesh.layout, DTYPES[config.precision]
        count = layout.pipeline * layout.stages
        self.stages: dict[int, LanguageModel | TaskModel] = {
            number: build(self._share(number, count, span)).to(mesh.device)
            for number, span in enumerate(stage_layers(model.layers, count))
            if number % layout.pipeline == mesh.pipeline_rank
        }
        self.changes = {
            weight: change
            for stage in self.stages.values()
            for weight, change in changed_matrices(stage).items()
        }
        shards = self._trained(dtype)
        tied = next(iter(self.stages.values())).tied
        trained = {shard.place.tensor for shard in shards}
        self.tied = {name: owner for name, owner in tied.items() if {name, owner} & trained}
        self.buckets = make_buckets(
            shards, mesh, self.tensor, self.context,
            tied=self.tied, dtype=dtype, megabytes=config.bucket_megabytes,
        )  # fmt: skip
        for bucket in self.buckets:
            bucket.adopt()
        self.owned_shards = mesh.owned_shards(config.grid.data)
        self.per_shard = config.batch.sequences // config.grid.data // config.batch.microbatch
        self.gradients = StepGradients(
            self.buckets, tensor=self.tensor, expert=mesh.expert(), shards=self.owned_shards,
            microbatches=self.per_shard, changes=self.changes,
        )  # fmt: skip
        length = config.sequence_length // config.grid.context // layout.tensor
        self.pipeline = Pipeline(
            self.stages, mesh, count=count, shape=(length, config.batch.microbatch, model.hidden),
            dtype=dtype, chunks=len(self.context.local),
        )  # fmt: skip
        self.actions = pipeline_actions(
            layout.schedule, ranks=layout.pipeline, stages=layout.stages,
            microbatches=len(self.owned_shards) * self.per_shard,
        )  # fmt: skip
        self.catalogue = self._catalogue(shards)
        self.publish()

    def _trained(self, dtype: torch.dtype) -> list[ParameterShard]:
        """The local shards that are trained; the others, frozen, are put into ``dtype``."""
        every = [shard for stage in self.stages.values() for shard in parameter_shards(stage)]
        frozen: dict[int, Tensor] = {}  # by where it lay, since tied weights lie in one place
        for shard in every:
            if not shard.parameter.requires_grad:
                data = shard.parameter.data
                shard.parameter.data = frozen.setdefault(data.data_ptr(), data.to(dtype))
        for change, _ in self.changes.values():
            change.cast(dtype)
        return [shard for shard in every if shard.parameter.requires_grad]

    def _share(self, number: int, count: int, layers: range) -> Share:
        return Share(
            tensor=self.tensor, context=self.context, expert=self.mesh.expert(), layers=layers,
            first=number == 0, last=number == count - 1, recompute=self.config.recompute,
            kernels=self.kernels,
        )  # fmt: skip

    def _catalogue(self, local: Iterable[ParameterShard]) -> dict[str, GridShard]:
        """Every grid shard of the whole model by ``tensor/shard``, in order."""
        mine = {shard.key: shard.place for shard in local if shard.place.tensor not in self.tied}
        known = [mine]
        if self.mesh.layout.ranks > 1:
            known = [{}] * self.mesh.layout.ranks
            with peers():
                dist.all_gather_object(known, mine)
        merged = {key: shard for part in known for key, shard in part.items()}
        return dict(sorted(merged.items()))

    # Gradients

    def gradient(
        self, batches: Callable[[range], Batch], step: int, *, scale: float = 1.0
    ) -> LossSums:
        """Leave the gradient of the mean loss over the batch of ``step`` with its owners.

        Args:
            batches: Reads the samples of the given numbers.
            step: Counts from 1.
            scale: The loss is multiplied by it, and the gradient divided.
        """
        with region(Region.INPUT):
            samples = self._samples(step)
            read = [batches(numbers) for _, numbers in samples]
            weight = self._pair_weight(read)
            work = [
                self._microbatch(
                    one, shard, Draw(self.config.seed, step, tuple(numbers)), scale, weight
                )
                for one, (shard, numbers) in zip(read, samples, strict=True)
            ]
        self.gradients.begin()
        losses = self.pipeline.run(self.actions, work)
        self.gradients.finish()
        self._add_tied()
        loss = self._mean(losses, read)
        for bucket in self._owned():
            bucket.gradient.div_(loss.predictions * scale)  # a power of two, so exact
        return loss

    def _samples(self, step: int) -> list[tuple[int, range]]:
        """The microbatches of ``step`` that are computed here: data shard and samples of each."""
        size = self.config.batch.microbatch
        starts = [
            (shard, (step - 1) * self.config.batch.sequences + (shard * self.per_shard + n) * size)
            for shard in self.owned_shards
            for n in range(self.per_shard)
        ]
        return [(shard, range(start, start + size)) for shard, start in starts]

    def heldout(self, batches: Sequence[Callable[[], Batch]]) -> MeanLoss:
        """The mean loss over ``batches``, a multiple of the data shards, without gradients."""
        read = [batches[number]() for number in self._owned_batches(len(batches))]
        return self._mean(self._forward(read), read).read()

    def outputs(self, batches: Sequence[Callable[[], Batch]]) -> list[Tensor]:
        """What the model tells of each of ``batches``, a multiple of the data shards.

        Returns:
            Of each its ``outputs [b, …]``, context chunks end to end in the second dimension: the
            same on every rank, on the CPU.
        """
        numbers = self._owned_batches(len(batches))
        found = self._forward([batches[number]() for number in numbers], outputs=True)
        mine = {}
        if self.pipeline.holds_head and self.mesh.coordinates["tensor"] == 0:
            mine = {
                (number, chunk): part.cpu()
                for number, parts in zip(numbers, found, strict=True)
                for chunk, part in zip(self.context.chunks, parts, strict=True)
            }
        known = [mine]
        if self.mesh.layout.ranks > 1:
            known = [{}] * self.mesh.layout.ranks
            with peers():
                dist.all_gather_object(known, mine)
        merged = {key: part for rank in known for key, part in rank.items()}
        cut = self.context.shards if (0, 1) in merged else 1
        return [
            torch.cat([merged[number, chunk] for chunk in range(cut)], dim=1 if cut > 1 else 0)
            for number in range(len(batches))
        ]

    def _owned_batches(self, count: int) -> list[int]:
        """Which of ``count`` batches, a multiple of the data shards, are computed here."""
        each = count // self.config.grid.data
        return [shard * each + number for shard in self.owned_shards for number in range(each)]

    def _forward(self, read: Sequence[Batch], *, outputs: bool = False) -> list[list[Tensor]]:
        """Losses or outputs by chunk of each of ``read``, without gradients."""
        weight = self._pair_weight(read)
        work = [self._microbatch(batch, None, None, 1.0, weight) for batch in read]
        layout = self.mesh.layout
        actions = forward_actions(
            ranks=layout.pipeline, stages=layout.stages, microbatches=len(work)
        )
        return self.pipeline.run(actions, work, outputs=outputs)

    def _pair_weight(self, read: Sequence[Batch]) -> float:
        """The predictions for each pair, of all that is computed together; 0 without pairs."""
        if read[0].labels is None:
            return 0.0
        predictions, pairs = self.mesh.merge(self._counts(read)).sum(dim=0).tolist()
        return float(predictions / pairs)

    def _counts(self, read: Sequence[Batch]) -> Tensor:
        """Predictions and pairs by data shard, int64 ``[shards, 2]``, told by one rank of each."""
        counts = torch.zeros(self.config.grid.data, 2, dtype=torch.int64)
        if any(self.mesh.coordinates[d] for d in ("tensor", "pipeline", "context")):
            return counts
        each = len(read) // len(self.owned_shards)
        for number, batch in enumerate(read):
            shard = self.owned_shards[number // each]
            counts[shard] += torch.tensor([batch.count, batch.pairs])
        return counts

    def _microbatch(
        self, batch: Batch, shard: int | None, draw: Draw | None, scale: float, pair_weight: float
    ) -> Microbatch:
        """Cut ``batch`` into the local chunks, sequence first."""
        chunks, device = self.context.chunks, self.mesh.device
        counted: Sequence[Tensor | None] = [None] * len(chunks)
        if batch.by_position and batch.count < batch.targets.numel():
            # Of the host's targets, since a device would have to be waited for.
            found = (
                np.flatnonzero(part.numpy() != IGNORED) for part in self._chunks(batch.targets)
            )
            counted = [torch.from_numpy(part).to(device, non_blocking=True) for part in found]
        batch = batch.to(device)
        tokens = self._chunks(batch.tokens)
        targets = (
            self._chunks(batch.targets) if batch.by_position else [batch.targets] * len(chunks)
        )
        deferred: list[Callable[[], None]] = []
        later = deferred if self.mesh.layout.schedule == "zero_bubble" else None
        documents = None if batch.documents is None else Documents.of(batch.documents.T)
        segments = None
        if batch.types is not None:
            segments = Segments(batch.types.T, batch.labels, pair_weight)
        places = []
        predictions = batch.count / batch.tokens.numel()
        for number, chunk in enumerate(chunks):
            leaf = None if shard is None else ChunkLeaf(self.gradients, shard, number, later)
            place = Place(chunk, leaf, draw, scale, predictions, documents, segments=segments)
            places.append(replace(place, counted=counted[number]))
        return Microbatch(tokens, targets, places, deferred)

    def _chunks(self, x: Tensor) -> list[Tensor]:
        parts = x.T.chunk(self.context.shards)
        return [parts[chunk].contiguous() for chunk in self.context.chunks]

    def _mean(self, losses: list[list[Tensor]], read: Sequence[Batch]) -> LossSums:
        """Over all ranks; microbatches are added by number, then chunks and shards."""
        chunks, owned, device = self.context.shards, self.owned_shards, self.mesh.device
        each = len(losses) // len(owned)
        shape = self.config.grid.data, chunks + 1, 2
        table = torch.zeros(shape, dtype=torch.float64, device=device)
        table[:, chunks] = self._counts(read).to(device, non_blocking=True)
        if self.pipeline.holds_head and self.mesh.coordinates["tensor"] == 0:
            for i, shard in enumerate(owned):
                for leaf, number in enumerate(self.context.local):
                    for k in range(i * each, (i + 1) * each):
                        found = losses[k][leaf].flatten()
                        table[shard, number, : len(found)] += found
        table = self.mesh.merge(table)
        counts = table[:, chunks].sum(dim=0)  # of integers, so exact
        return LossSums(table[:, :chunks], counts[0], read[0].labels is not None)

    # Tied weights

    def _tied_buckets(self) -> list[tuple[Bucket | None, Bucket | None]]:
        """Of each tied tensor the local buckets of its owner and of its copy."""
        by_name = {bucket.shards[0].place.tensor: bucket for bucket in self.buckets}
        return [(by_name.get(owner), by_name.get(name)) for name, owner in self.tied.items()]

    def _add_tied(self) -> None:
        """Add the gradient of each tied copy, which had sums of its own, to its owner's."""
        for owner, copy in self._tied_buckets():
            if owner is not None and copy is not None:
                owner.gradient.add_(copy.gradient)
            elif copy is not None:
                self._send(copy.gradient, 0)
            elif owner is not None:
                received = torch.empty_like(owner.gradient)
                self._receive(received, self.mesh.layout.pipeline - 1)
                owner.gradient.add_(received)

    def _copy_tied(self) -> None:
        """Bring the owner's new weights to a copy on another stage."""
        for owner, copy in self._tied_buckets():
            if owner is not None and copy is None:
                self._send(owner.weights[owner.own], self.mesh.layout.pipeline - 1)
            elif copy is not None and owner is None:
                self._receive(copy.weights[copy.own], 0)
                copy.publish()

    def _send(self, x: Tensor, pipeline_rank: int) -> None:
        with peers():
            dist.send(x, self.mesh.peer(pipeline_rank))

    def _receive(self, x: Tensor, pipeline_rank: int) -> None:
        with peers():
            dist.recv(x, self.mesh.peer(pipeline_rank))

    # What the gradient is like

    def measure(self, *, checksums: bool) -> Measured:
        """Squared norms of the gradient, and checksums of gradient and weights, everywhere."""
        with region(Region.OPTIMIZER):
            return measure(self._owned(), self.catalogue, self.mesh, checksums=checksums)

    def _owned(self) -> list[Bucket]:
        """Buckets with state; replicated tensors on every tensor rank."""
        return [bucket for bucket in self.buckets if not bucket.tied]

    # The update

    def update(self, *, step: int, rate: float, coefficient: float) -> None:
        """Clip by ``coefficient`` and take one step of AdamW; every replica gets the weights."""
        with region(Region.OPTIMIZER):
            for bucket in self._owned():
                gradient, optimizer = bucket.gradient, self.config.optimizer
                if coefficient != 1.0:
                    gradient.mul_(coefficient)
                bucket.state.update(
                    gradient, step=step, rate=rate, config=optimizer, kernels=self.kernels
                )
            self.publish()

    def publish(self) -> None:
        """Bring the owners' main weights to every rank that computes with them."""
        for bucket in self._owned():
            bucket.publish()
        self._copy_tied()
        for change in {change for change, _ in self.changes.values()}:
            change.merge()

    def state(self, *, replicated: bool = False) -> list[OwnedRun]:
        """Live views of what this rank owns.

        Of replicated tensors one tensor rank speaks; with ``replicated`` all of them do, to load.
        """
        found = []
        for bucket in self._owned():
            for run in bucket.runs:
                shard = self.catalogue[run.name]
                if not (replicated or speaks_for(self.mesh, shard)):
                    continue
                for kind in ("weights", "first", "second"):
                    view = getattr(bucket.state, kind)[run.start : run.stop]
                    found.append(OwnedRun(kind, shard.tensor, shard.shard, run.offset, view))
        return found
