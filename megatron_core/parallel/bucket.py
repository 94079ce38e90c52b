"""Parameters whose gradients are exchanged and whose optimizer state is owned together (ZeRO-1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megatron_core.collectives import CutSum, Span, TreeAccumulator, share_cuts, tree_sum
from megatron_core.model import ParameterShard
from megatron_core.optimizer import AdamWState, FlatLayout, Run
from megatron_core.parallel.mesh import Mesh


@dataclass(frozen=True)
class Replicas:
    """The ranks that hold the same parameters, and what each of them owns.

    The buffer is cut for the context ranks first and each of these cuts for the data ranks, in
    the order in which gradients are summed.
    """

    context: Span
    data: Span
    group: dist.ProcessGroup | None

    @classmethod
    def of(cls, mesh: Mesh, context: Span, *, expert: bool) -> Replicas:
        """Those of an expert's weights are fewer: its rank alone among the expert ranks."""
        ranks = mesh.layout.data // (mesh.layout.expert if expert else 1)
        place = mesh.coordinates["data"] if expert else mesh.data_rank
        prefix = "expert_" if expert else ""
        data = Span(ranks, ranks, place, mesh.groups.get(f"{prefix}data"))
        return cls(context, data, mesh.groups.get(f"{prefix}replica"))

    @property
    def count(self) -> int:
        """Ranks in all."""
        return self.context.ranks * self.data.ranks

    @property
    def own(self) -> int:
        """The cut that this rank owns."""
        return self.context.rank * self.data.ranks + self.data.rank

    @property
    def owners(self) -> list[int]:
        """The number within ``group`` of each cut's owner."""
        return [
            data * self.context.ranks + context
            for context in range(self.context.ranks)
            for data in range(self.data.ranks)
        ]


class Bucket:
    """A flat buffer of local parameter shards, cut among the ranks that replicate them.

    Attributes:
        layout: Where each shard, named ``tensor/shard``, lies.
        weights: What the model computes from, ``[n]`` in the dtype of the recipe.
        state: Main weights and moments of the cut this rank owns; empty for a tied copy.
        gradient: Of the owned cut, fp32, from the end of the backward pass on.
    """

    def __init__(
        self,
        shards: Sequence[ParameterShard],
        replicas: Replicas,
        *,
        dtype: torch.dtype,
        device: torch.device,
        tied: bool = False,
        owner: Bucket | None = None,
    ) -> None:
        """``tied`` parameters are another's, of the bucket ``owner`` where that is here."""
        self.shards, self.replicas = list(shards), replicas
        self.tied, self.owner = tied, owner
        self.layout = FlatLayout({s.key: s.parameter.shape for s in shards})
        self.bounds = self.layout.cut(replicas.count)
        self.own = slice(self.bounds[replicas.own], self.bounds[replicas.own + 1])
        self.weights: Tensor = (
            torch.zeros(self.layout.size, dtype=dtype, device=device)
            if owner is None
            else owner.weights
        )
        self.gradient = torch.empty(0, device=device)
        # fp32 weights are their own main weights; lower precisions keep an fp32 copy.
        main = self.weights[self.own][: 0 if tied else None]
        if dtype != torch.float32:
            main = torch.zeros(main.numel(), device=device)
        decayed = min(max(self.layout.decayed - self.own.start, 0), main.numel())
        self.state = AdamWState(main, decayed)

    def adopt(self) -> None:
        """Move the parameters' values into the buffers and let the model compute from there."""
        whole = torch.zeros(self.layout.size, device=self.weights.device)
        for shard, initial in zip(self.shards, self.in_order(whole), strict=True):
            initial.copy_(shard.parameter.data)
        if not self.tied:
            self.state.weights.copy_(whole[self.own])
        self.weights.copy_(whole)
        for shard, view in zip(self.shards, self.in_order(self.weights), strict=True):
            shard.parameter.data = view

    def in_order(self, buffer: Tensor) -> list[Tensor]:
        """The shards' places in ``buffer [n]``, as ``shards`` has them."""
        views = self.layout.views(buffer)
        return [views[shard.key] for shard in self.shards]

    @property
    def runs(self) -> list[Run]:
        """The shards, or parts of shards, that this rank owns."""
        return self.layout.runs(self.own.start, self.own.stop)

    def publish(self) -> None:
        """Give every replica the owned cut of the main weights, in the model's dtype."""
        mine = self.weights[self.own]
        if not self.tied and mine.dtype != torch.float32:
            mine.copy_(self.state.weights)
        share_cuts(self.weights, self.bounds, self.replicas.owners, self.replicas.group)


class BucketGradient:
    """The gradient of one bucket on its way from microbatches to the owner of each cut.

    Microbatches of a data shard are added by number into one fp32 buffer per context chunk and
    variant: the local sequence slices of replicated tensors, or the ranks that sent an expert its
    rows. A finished data shard is folded by the trees over slices and chunks and pushed into the
    tree over data shards; the last one begins the exchange between the data ranks.
    """

    def __init__(
        self, bucket: Bucket, *, variants: int, tensor: Span | None, shards: range, uses: int
    ) -> None:
        """
        Args:
            variants: Buffers per chunk: slices, or expert ranks.
            tensor: The slices' dimension when the variants are slices.
            shards: Data shards computed here.
            uses: Gradients that arrive per data shard.
        """
        self.bucket, self.variants, self.tensor = bucket, variants, tensor
        self.shards, self.uses = shards, uses
        self.chunks = len(bucket.replicas.context.local)
        self._sums: dict[int, Tensor] = {}
        self._views: dict[int, list[list[list[Tensor]]]] = {}
        self._left: dict[int, int] = {}
        self._trees: list[TreeAccumulator] = []
        self._exchange: CutSum | None = None

    def begin(self) -> None:
        """Forget the last step."""
        self.bucket.gradient = self.bucket.gradient.new_empty(0)
        self._left = dict.fromkeys(self.shards, self.uses)
        trees = 1 if self.tensor is not None else self.variants
        self._trees = [TreeAccumulator() for _ in range(trees)]
        self._exchange = None

    def target(self, shard: int, chunk: int, variant: int, place: int) -> Tensor:
        """Where the gradient of parameter number ``place`` is summed."""
        if shard not in self._sums:
            bucket = self.bucket
            self._sums[shard] = torch.zeros(
                self.chunks, self.variants, bucket.layout.size, device=bucket.weights.device
            )
            self._views[shard] = [
                [bucket.in_order(part) for part in parts] for parts in self._sums[shard]
            ]
        return self._views[shard][chunk][variant][place]

    def arrived(self, shard: int) -> None:
        """Count a gradient that was added; the last of a data shard folds it."""
        self._left[shard] -= 1
        if self._left[shard] == 0:
            self._fold(shard)

    def _fold(self, shard: int) -> None:
        sums = self._sums.pop(shard)
        del self._views[shard]
        replicas = self.bucket.replicas
        if self.tensor is not None:
            folded = self.tensor.sum(tree_sum(list(sums.unbind(1))))[:, None]
        else:
            folded = sums
        for tree, chunks in zip(self._trees, folded.unbind(1), strict=True):
            own = tree_sum(list(chunks.unbind()))
            bounds = self.bucket.bounds[:: replicas.data.ranks]
            tree.push(CutSum(own, bounds, replicas.context.group).wait())
        if shard == self.shards[-1]:
            node = tree_sum([tree.total() for tree in self._trees])
            first = replicas.context.rank * replicas.data.ranks
            bounds = self.bucket.bounds[first : first + replicas.data.ranks + 1]
            start = bounds[0]
            self._exchange = CutSum(node, [b - start for b in bounds], replicas.data.group)

    def finish(self) -> None:
        """Wait for the exchange; ``bucket.gradient`` is then the sum over all shards."""
        if self._exchange is None:
            raise RuntimeError(
                f"{sum(self._left.values())} gradients of "
                f"{', '.join(s.key for s in self.bucket.shards)} did not arrive"
            )
        self.bucket.gradient = self._exchange.wait()
        self._exchange, self._trees = None, []


def make_buckets(
    shards: Iterable[ParameterShard],
    mesh: Mesh,
    tensor: Span,
    context: Span,
    *,
    tied: Mapping[str, str],
    dtype: torch.dtype,
    megabytes: float,
) -> list[Bucket]:
    """Buckets in the order in which their gradients are complete.

    Each is of at most ``megabytes`` of fp32, or a single larger shard. Replicated tensors whose
    slices give gradients apart, experts, what is kept in fp32, and tied tensors and their owners
    have buckets of their own.
    """
    limit = megabytes * 2**20 / 4
    groups: list[list[ParameterShard]] = []
    open_groups: dict[object, list[ParameterShard]] = {}
    for shard in reversed(list(shards)):
        alone = shard.place.tensor in {*tied, *tied.values()}
        sliced = shard.place.sliced and tensor.shards > 1
        kind = shard.place.tensor if alone else (shard.place.expert, sliced, shard.fp32)
        group = open_groups.get(kind)
        if group is None or (not alone and _elements([*group, shard]) > limit):
            group = open_groups[kind] = []
            groups.append(group)
        group.append(shard)
    replicas = {flag: Replicas.of(mesh, context, expert=flag) for flag in (False, True)}
    owners: dict[str, Bucket] = {}
    buckets: dict[int, Bucket] = {}
    # Owners first, so that a tied copy finds its own.
    for number, group in sorted(enumerate(groups), key=lambda g: g[1][0].place.tensor in tied):
        one = group[0].place
        buckets[number] = owners[one.tensor] = Bucket(
            group, replicas[one.expert], device=mesh.device,
            dtype=torch.float32 if group[0].fp32 else dtype,
            tied=one.tensor in tied, owner=owners.get(tied.get(one.tensor, "")),
        )  # fmt: skip
    return [buckets[number] for number in range(len(groups))]


def _elements(shards: Iterable[ParameterShard]) -> int:
    return sum(shard.parameter.numel() for shard in shards)


def parameter_places(buckets: Sequence[Bucket]) -> dict[nn.Parameter, tuple[int, int]]:
    """The bucket and the place in it of every parameter."""
    return {
        shard.parameter: (i, place)
        for i, bucket in enumerate(buckets)
        for place, shard in enumerate(bucket.shards)
    }
