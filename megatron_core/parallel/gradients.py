"""Where weight gradients go during a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from kernels.registry import Kernels
from megatron_core.collectives import Span
from megatron_core.model import Lora
from megatron_core.parallel.bucket import Bucket, BucketGradient, parameter_places


class StepGradients:
    """The sums of all buckets during one step after the other."""

    def __init__(
        self, buckets: Sequence[Bucket], *, tensor: Span, expert: Span, shards: range,
        microbatches: int, changes: Mapping[nn.Parameter, tuple[Lora, int]],
    ) -> None:  # fmt: skip
        """
        Args:
            tensor: Tensor shards; their sequence slices give gradients apart.
            expert: Ranks that send rows to the experts here.
            shards: Data shards computed here.
            microbatches: Of each data shard.
            changes: Of matrices that are not trained themselves, what is trained for them.
        """
        self.buckets, self.changes = list(buckets), changes
        self._places = parameter_places(buckets)
        self._sums = []
        for bucket in buckets:
            one = bucket.shards[0].place
            sliced = one.sliced and tensor.shards > 1
            variants = len(tensor.local) if sliced else expert.ranks if one.expert else 1
            chunks = len(bucket.replicas.context.local)
            self._sums.append(
                BucketGradient(
                    bucket, variants=variants, tensor=tensor if sliced else None, shards=shards,
                    uses=microbatches * chunks * variants * len(bucket.shards),
                )
            )  # fmt: skip

    def begin(self) -> None:
        """Begin a step."""
        for bucket in self._sums:
            bucket.begin()

    def finish(self) -> None:
        """Wait until every bucket's gradient is the sum over all shards."""
        for bucket in self._sums:
            bucket.finish()

    def add(
        self, weight: nn.Parameter, shard: int, chunk: int, variant: int,
        add: Callable[[Tensor], None],
    ) -> None:  # fmt: skip
        """Let ``add`` add to the sum of ``weight``, and count it; nothing if that is frozen."""
        if not weight.requires_grad:
            return
        number, place = self._places[weight]
        bucket = self._sums[number]
        add(bucket.target(shard, chunk, variant, place))
        bucket.arrived(shard)


class ChunkLeaf:
    """The leaf of one microbatch's chunk; see ``GradientLeaf``.

    With ``deferred`` the products of linear layers are kept for later, as zero-bubble schedules
    want them (Qi et al., 2024).
    """

    def __init__(
        self,
        gradients: StepGradients,
        shard: int,
        chunk: int,
        deferred: list[Callable[[], None]] | None,
    ) -> None:
        self._gradients, self._shard, self._chunk = gradients, shard, chunk
        self._deferred = deferred

    @torch.no_grad()
    def linear(
        self, weight: nn.Parameter, gradient: Tensor, x: Tensor, kernels: Kernels, source: int = 0
    ) -> None:
        """Add ``gradient [..., out]ᵀ @ x [..., in]``, now or when the weights' turn comes."""
        change = self._gradients.changes.get(weight)
        if change is None and not weight.requires_grad:
            return

        def product() -> None:
            if change is not None:
                lora, number = change
                for factor, found, slice in lora.gradients(number, gradient, x):
                    self.add(factor, found, slice)
                return
            self._gradients.add(
                weight, self._shard, self._chunk, source,
                lambda total: kernels.add_weight_gradient(total, gradient, x),
            )  # fmt: skip

        if self._deferred is None:
            product()
        else:
            self._deferred.append(product)

    @torch.no_grad()
    def add(self, weight: nn.Parameter, gradient: Tensor, slice: int = 0) -> None:
        """Add a gradient of local sequence slice ``slice``."""

        def plain(total: Tensor) -> None:
            total.add_(gradient)

        self._gradients.add(weight, self._shard, self._chunk, slice, plain)

    @torch.no_grad()
    def accumulate(self, weight: nn.Parameter, add: Callable[[Tensor], None]) -> None:
        """Let ``add`` add to the sum, now."""
        self._gradients.add(weight, self._shard, self._chunk, 0, add)
