"""What is planned: a model, a batch and a grid on a layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_core.config import (
    AdapterConfig,
    ContinuedConfig,
    Grid,
    InstructionsTask,
    ModelConfig,
    PredictionConfig,
    PreferencesTask,
    TaskSettings,
    TrainingConfig,
)
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.schedule import Action, pipeline_actions, stage_layers
from megatron_core.planning.flops import Recompute
from megatron_core.planning.hardware import BYTES, Precision


@dataclass(frozen=True)
class Job:
    """One training run on one layout.

    Attributes:
        model: Its architecture.
        layout: Ranks per dimension.
        grid: Logical shards; by default those of the layout.
        sequence: Tokens per sequence.
        batch: Sequences per step.
        microbatch: Sequences per forward pass.
        precision: Of weights and activations.
        recompute: Activations computed again in the backward pass.
        dropout: Share of activations dropped.
        adapter: What is trained in place of the weights; None trains these.
        logits: Whether the model tells tokens. The head of another task has a few weights and
            outputs, as many as there are classes in its files, and is left out.
        apart: Whether documents of a sequence do not see one another, or end before it does.
    """

    model: ModelConfig
    layout: Layout
    sequence: int
    batch: int
    microbatch: int = 1
    grid: Grid | None = None
    precision: Precision = "bf16"
    recompute: Recompute = "none"
    dropout: float = 0.0
    adapter: AdapterConfig | None = None
    logits: bool = True
    apart: bool = False

    @classmethod
    def of(cls, config: TrainingConfig, model: ModelConfig, layout: Layout) -> Job:
        """A training of ``model`` as its recipe has it."""
        return cls(
            model=model,
            layout=layout,
            sequence=config.sequence_length,
            batch=config.batch.sequences,
            microbatch=config.batch.microbatch,
            grid=config.grid,
            precision=config.precision,
            recompute=config.recompute,
            dropout=model.dropout,
            adapter=config.adapter if isinstance(config, ContinuedConfig | TaskSettings) else None,
            logits=isinstance(config, PredictionConfig | InstructionsTask | PreferencesTask),
            apart=not isinstance(config, PredictionConfig) or config.reset_at_documents,
        )

    @property
    def tensor(self) -> int:
        """Tensor shards of the grid."""
        return self.grid.tensor if self.grid else self.layout.tensor

    @property
    def context(self) -> int:
        """Context chunks of the grid."""
        return self.grid.context if self.grid else self.layout.context

    @property
    def data(self) -> int:
        """Data shards of the grid."""
        return self.grid.data if self.grid else self.layout.data

    @property
    def chunks(self) -> int:
        """Context chunks that a rank computes."""
        return self.context // self.layout.context

    @property
    def shards(self) -> int:
        """Tensor shards that a rank computes."""
        return self.tensor // self.layout.tensor

    @property
    def tokens(self) -> int:
        """Tokens of one chunk of one microbatch."""
        return self.microbatch * self.sequence // self.context

    @property
    def microbatches(self) -> int:
        """Microbatches that pass through each pipeline in a step."""
        return self.batch // (self.layout.data * self.microbatch)

    @property
    def width(self) -> int:
        """Bytes of an activation."""
        return BYTES[self.precision]

    @property
    def trained_width(self) -> int:
        """Bytes of a weight that is trained, beside its main weight: adapters are fp32."""
        return self.width if self.adapter is None else 4

    @property
    def stages(self) -> list[range]:
        """The layers of each virtual stage."""
        return stage_layers(self.model.layers, self.layout.pipeline * self.layout.stages)

    def actions(self) -> list[list[Action]]:
        """The order of each pipeline rank's work."""
        layout = self.layout
        return pipeline_actions(
            layout.schedule,
            ranks=layout.pipeline,
            stages=layout.stages,
            microbatches=self.microbatches,
        )


def problems(job: Job) -> list[str]:
    """Everything that keeps ``job`` from running, each with the value and what is allowed."""
    return list(_problems(job))


def _problems(job: Job) -> Iterator[str]:
    a, layout = job.model, job.layout
    stages = layout.pipeline * layout.stages
    if a.layers < stages:
        yield (
            f"pipeline × stages = {layout.pipeline} × {layout.stages} = {stages} must not exceed "
            f"the {a.layers} layers: a stage needs one at least"
        )
    for name in ("data", "tensor", "context"):
        degree, shards = getattr(layout, name), getattr(job, name)
        if job.grid is None and degree & (degree - 1):
            yield f"{name}={degree} must be a power of two, so that every sum is a balanced tree"
        elif shards % degree:
            yield f"{name}={degree} must divide grid.{name} = {shards}"
    if job.batch % (job.data * job.microbatch):
        yield (
            f"a batch of {job.batch} sequences must be a multiple of data × microbatch = "
            f"{job.data} × {job.microbatch}"
        )
    slices = job.tensor * job.context
    if job.sequence % slices:
        yield (
            f"a sequence of {job.sequence} tokens must be a multiple of tensor × context = "
            f"{job.tensor} × {job.context}"
        )
    if job.sequence > a.positions:
        yield f"a sequence of {job.sequence} tokens exceeds the model's {a.positions} positions"
    ffn = a.ffn if a.experts is None else a.experts.ffn
    cut = {"heads": a.heads, "kv_heads": a.kv_heads, "ffn": ffn, "vocabulary": a.vocabulary}
    for what, count in cut.items():
        if count % job.tensor:
            yield f"tensor={job.tensor} must divide {what} = {count}"
    if layout.data % layout.expert:
        yield f"expert={layout.expert} must divide data={layout.data}, whose ranks share experts"
    if a.experts is None and layout.expert > 1:
        yield f"expert={layout.expert} needs a model with experts; this one has none"
    elif a.experts is not None and a.experts.count % layout.expert:
        yield f"expert={layout.expert} must divide the {a.experts.count} experts"
