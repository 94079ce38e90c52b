"""A trainer in numbers: what it exchanges, reads and writes beside its matrix products."""

from __future__ import annotations

from pydantic import Field

from megatron_core.config import Section
from megatron_core.planning.hardware import Precision


class Passes(Section):
    """Reads and writes of memory by elementwise work, in tensors of the model's precision."""

    forward: float = Field(ge=0, description="In the forward pass of a layer")
    backward: float = Field(ge=0, description="In its backward pass")


class Elementwise(Section):
    """Memory moved beside the operands and results of matrix products."""

    residual: Passes = Field(description="Tensors of the residual stream, per layer")
    projected: Passes = Field(description="Tensors of the queries and keys, per layer")
    ffn: Passes = Field(description="Tensors of the feed-forward width, per layer")
    scores: Passes = Field(description="Attention scores, where they reach memory")
    logits: float = Field(ge=0, description="Bytes per logit, forward and backward")
    accumulate: float = Field(ge=0, description="Bytes per weight to add a gradient")
    optimizer: float = Field(ge=0, description="Bytes per weight that the rank updates")


class Software(Section):
    """What of a trainer decides its traffic and its time."""

    source: str = Field(description="Where this is from")
    fp32: Elementwise = Field(description="At full precision")
    half: Elementwise = Field(description="In bf16 or fp16")
    sequence_parallel: bool = Field(description="Norms and residual sums on sequence slices")
    gathers_again: bool = Field(description="Inputs are gathered again in the backward pass")
    partial_bytes: int = Field(ge=1, description="Of an element of tensor ranks' partial sums")
    fixed_sums: bool = Field(description="Added locally in a fixed order, behind an all-to-all")
    fused_projections: bool = Field(description="One product where layers share their input")
    fused_attention: bool = Field(description="Scores never reach memory")
    skips_masked: bool = Field(description="Attention leaves out what a decoder cannot see")
    sharded_optimizer: bool = Field(description="ZeRO-1: data ranks share the optimizer")
    gradient_bytes: int = Field(ge=1, description="Of a weight's gradient between data ranks")
    overlapped_gradients: bool = Field(description="Exchanged while the last backward pass runs")
    sliced_pipeline: bool = Field(description="Tensor ranks each send a slice to the next stage")
    blocking_sends: bool = Field(description="A sender waits until its message has arrived")

    def elementwise(self, precision: Precision) -> Elementwise:
        """What is moved at ``precision``."""
        return self.fp32 if precision == "fp32" else self.half
