"""Gradients of one optimizer step: microbatches by number, data shards by the tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from megatron_core.collectives import TreeAccumulator, exchange_sum
from megatron_core.optimizer import FlatLayout
from megatron_core.parallel.mesh import Mesh


class GradientAccumulator:
    """Collects gradients of a model in flat fp32 buffers, one per data shard at a time.

    fp32 gradients are added by autograd straight into the buffer; those of another dtype are
    cast and added as soon as each is complete.
    """

    def __init__(self, model: nn.Module, layout: FlatLayout, tied: Mapping[str, str]) -> None:
        self.layout, self.tied = layout, dict(tied)
        parameters = dict(model.named_parameters())
        # Tied parameters keep accumulators of their own behind the others until the step ends.
        self.extra = FlatLayout({name: parameters[name].shape for name in tied})
        self.parameters = parameters
        self.device = next(model.parameters()).device
        self._views: dict[str, Tensor] = {}
        for name, parameter in parameters.items():
            if parameter.dtype != torch.float32:
                parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    self._caster(name)
                )

    def begin_shard(self) -> Tensor:
        """A zeroed buffer that the backward passes from here on add into."""
        buffer = torch.zeros(self.layout.size + self.extra.size, device=self.device)
        self._views = self._split(buffer)
        for name, parameter in self.parameters.items():
            if parameter.dtype == torch.float32:
                parameter.grad = self._views[name]
        return buffer

    def total(self, tree: TreeAccumulator, mesh: Mesh, count: float) -> Tensor:
        """The gradient over all shards and ranks, divided by ``count`` once: flat ``[n]``."""
        buffer = exchange_sum(tree.total(), mesh.data_group)
        views = self._split(buffer)
        for name, owner in self.tied.items():
            views[owner].add_(views[name])
        return buffer[: self.layout.size].div_(count)

    def _split(self, buffer: Tensor) -> dict[str, Tensor]:
        size = self.layout.size
        return {**self.layout.views(buffer[:size]), **self.extra.views(buffer[size:])}

    def _caster(self, name: str) -> Callable[[Tensor], None]:
        def add(parameter: Tensor) -> None:
            if parameter.grad is not None:
                self._views[name].add_(parameter.grad)
                parameter.grad = None

        return add
