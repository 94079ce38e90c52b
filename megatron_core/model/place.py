"""Where in the arithmetic a tensor belongs, and what of it is computed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from kernels.registry import Kernels
from megatron_core.collectives import WHOLE, ContextSpan, Span
from megatron_core.model.documents import Documents
from megatron_core.model.segments import Segments


class GradientLeaf(Protocol):
    """A leaf of the tree of gradient sums: one data shard's one context chunk.

    Layers hand their weight gradients to it instead of to ``Parameter.grad``, so that each leaf
    keeps a sum of its own in fp32.
    """

    def linear(
        self, weight: nn.Parameter, gradient: Tensor, x: Tensor, kernels: Kernels, source: int = 0
    ) -> None:
        """Add ``gradient [..., out]ᵀ @ x [..., in]``; may be done later.

        ``source`` is the expert rank that the rows came from, for an expert's weight.
        """
        ...

    def add(self, weight: nn.Parameter, gradient: Tensor, slice: int = 0) -> None:
        """Add a gradient that sequence slice ``slice``, counted among the local ones, gave."""
        ...

    def accumulate(self, weight: nn.Parameter, add: Callable[[Tensor], None]) -> None:
        """Let ``add`` add a gradient to the fp32 sum in place; not if the weight is frozen."""
        ...


class SequenceAttention(Protocol):
    """Attention over sequences of any lengths that follow one another in the row of tokens.

    Where a place has one, it takes the place of attention over the row: for scoring and
    generation, whose sequences are not of one length, and which keep what earlier tokens gave.
    """

    def attend(self, layer: int, shard: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As ``kernels.attention`` for one tensor shard of a layer: ``[n, 1, heads, size]``."""
        ...


@dataclass(frozen=True)
class Draw:
    """What a random draw is a function of, beside its layer, site and piece."""

    seed: int
    step: int
    samples: tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """One context chunk of one microbatch.

    Attributes:
        chunk: Number of the context chunk.
        leaf: Where weight gradients go; None leaves them to autograd.
        draw: What dropout draws from; None drops nothing.
        scale: What the loss is multiplied by before the backward pass, as auxiliary losses must be.
        predictions: Of each token of the microbatch. The loss is a sum over predictions and later
            divided by their number, so what is summed over tokens must be multiplied by it.
        documents: Of the whole sequences, when those in one do not see each other; None if they do.
        attention: What mixes the tokens instead of attention over the whole row, if anything.
        segments: Of the whole sequences, when they are pairs; None for sequences of one segment.
        counted: int64 ``[n]``, which of the chunk's positions ``s · b`` have a prediction that
            counts, if others need no logits; None for all of them.
    """

    chunk: int = 0
    leaf: GradientLeaf | None = None
    draw: Draw | None = None
    scale: float = 1.0
    predictions: float = 1.0
    documents: Documents | None = None
    attention: SequenceAttention | None = None
    segments: Segments | None = None
    counted: Tensor | None = None


ALONE = (Place(),)


@dataclass(frozen=True)
class Share:
    """What of the model and of the grid is computed here; by default all, on a grid of one.

    Attributes:
        tensor: Tensor shards, which the sequence slices go with.
        context: Context chunks.
        expert: Ranks among the data ranks that the experts are spread over.
        layers: Blocks of this pipeline stage; None is all.
        first: Whether the embedding is here.
        last: Whether the head is here.
        recompute: Activations computed again in the backward pass.
        kernels: What computes each operation.
    """

    tensor: Span = WHOLE
    context: ContextSpan = field(default_factory=ContextSpan)
    expert: Span = WHOLE
    layers: range | None = None
    first: bool = True
    last: bool = True
    recompute: str = "none"
    kernels: Kernels = field(default_factory=Kernels)
