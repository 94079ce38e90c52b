"""Memory that models and steps really take: what autograd keeps, what the allocator gives out."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from kernels.registry import Kernels
from megatron_core.collectives import ContextSpan, Span
from megatron_core.config import (
    ClassificationTask,
    Grid,
    ModelConfig,
    PretrainConfig,
    TaskSettings,
    TrainingConfig,
)
from megatron_core.model import HeadSpec, LanguageModel, Place, Share, TaskModel, add_adapter
from megatron_core.parallel.backends import DTYPES
from megatron_core.parallel.batch import Batch
from megatron_core.parallel.engine import Engine
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.planning.job import Job
from megatron_core.trainer.adapted import body_of


class Forgetful:
    """A gradient leaf that keeps nothing."""

    def linear(
        self, weight: nn.Parameter, gradient: Tensor, x: Tensor, kernels: Kernels, source: int = 0
    ) -> None:
        pass

    def add(self, weight: nn.Parameter, gradient: Tensor, slice: int = 0) -> None:
        pass

    def accumulate(self, weight: nn.Parameter, add: Callable[[Tensor], None]) -> None:
        add(torch.zeros(weight.shape))


def whole(grid: Grid, recompute: str) -> Share:
    """All of ``grid`` on one rank."""
    return Share(tensor=Span(grid.tensor), context=ContextSpan(grid.context), recompute=recompute)


def saved_bytes(
    config: ModelConfig, share: Share, *, length: int, batch: int, precision: str
) -> int:
    """What autograd keeps of one microbatch between the passes, where ``share`` is computed."""
    model = LanguageModel(config, share)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=DTYPES[precision]) * 0.02
    known = {x.untyped_storage().data_ptr() for x in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in known:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    size = length // share.context.shards
    tokens = [torch.randint(0, config.vocabulary, (size, batch)) for _ in share.context.chunks]
    places = [Place(chunk=chunk, leaf=Forgetful()) for chunk in share.context.chunks]
    with saved_tensors_hooks(keep, lambda x: x):
        model.losses(model.blocks(model.embed(tokens, places), places), tokens, places)
    return sum(x.untyped_storage().nbytes() for x in kept.values())


def step_bytes(
    config: TrainingConfig, layout: Layout, model: ModelConfig | None = None
) -> tuple[int, int]:
    """What a rank allocates for weights and optimizer, and at most in one step beside them.

    Of pretraining, or of a task on a ``model``.
    """
    if isinstance(config, PretrainConfig):
        model = config.model
    assert model is not None
    architecture, apart = model, Job.of(config, model, layout).apart
    with open_mesh(layout, "cpu", 1) as mesh:

        def build(share: Share) -> LanguageModel | TaskModel:
            made: LanguageModel | TaskModel = LanguageModel(architecture, share)
            if isinstance(config, ClassificationTask):
                made = TaskModel(architecture, HeadSpec("classes", 2), share)
            if isinstance(config, TaskSettings) and config.adapter is not None:
                add_adapter(body_of(made)[0], config.adapter)
            for parameter in made.parameters():
                parameter.data.normal_(std=0.02)
            return made

        def batches(samples: range) -> Batch:
            tokens = torch.zeros(len(samples), config.sequence_length, dtype=torch.int64)
            if isinstance(config, ClassificationTask):
                return Batch(tokens, tokens[:, :1].T, len(samples), False, documents=tokens)
            return Batch(tokens, tokens, tokens.numel(), documents=tokens if apart else None)

        # One profile: the profiler forgets what it did not see allocated.
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            engine = Engine(build, config, mesh, model=architecture)
            torch.empty(_MARK, dtype=torch.uint8)
            engine.gradient(batches, 1)
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    made = sizes.index(_MARK)
    state = sum(sizes[:made])
    return state, max(itertools.accumulate(sizes[made:]))


_MARK = 123_457  # bytes; no tensor of ours has as many
