"""Floating-point operations of a transformer: a multiplication and an addition count as two."""

from __future__ import annotations

from typing import Literal

from megatron_core.config import AdapterConfig, LoraConfig, ModelConfig
from megatron_core.planning.parameters import changed_shapes

Recompute = Literal["none", "selective", "full"]


def layer_flops(a: ModelConfig) -> int:
    """Products with the weights of one block, forward, per token."""
    into = 2 if a.gated else 1
    attention = a.hidden * (2 * a.query_width + 2 * a.key_width)
    if a.experts is None:
        return 2 * (attention + (into + 1) * a.hidden * a.ffn)
    experts = a.experts.chosen * (into + 1) * a.hidden * a.experts.ffn
    return 2 * (attention + a.hidden * a.experts.count + experts)


def attention_flops(a: ModelConfig, sequence: int) -> int:
    """Queries with keys and scores with values in one block, forward, per token.

    The whole square counts, as is the convention, though half of it is masked in a decoder.
    """
    return 4 * sequence * a.query_width


def head_flops(a: ModelConfig) -> int:
    """The logits, forward, per token; those of a pair are one position's, and left out."""
    return 2 * a.hidden * (a.vocabulary + a.head_transform * a.hidden)


def forward_flops(a: ModelConfig, sequence: int) -> int:
    """The whole model, forward, per token of a sequence of ``sequence`` tokens."""
    return a.layers * (layer_flops(a) + attention_flops(a, sequence)) + head_flops(a)


def step_flops(a: ModelConfig, sequence: int, recompute: Recompute = "none") -> int:
    """Forward, backward and what is computed again, per token.

    The backward pass is two products for each one forward. ``none`` gives the model's FLOPs,
    which MFU is measured by; the others give the hardware's.
    """
    again = {
        "none": 0,
        "selective": a.layers * attention_flops(a, sequence),
        "full": a.layers * (layer_flops(a) + attention_flops(a, sequence)),
    }
    return 3 * forward_flops(a, sequence) + again[recompute]


def tuning_flops(
    a: ModelConfig, sequence: int, adapter: AdapterConfig | None, *, logits: bool = True
) -> int:
    """Forward and backward of a training that begins with a model, per token.

    A frozen matrix has no product for its gradient; the factors of a low-rank change have two each,
    with the rank between them. Without ``logits`` nothing is computed after the blocks.
    """
    head = head_flops(a) if logits else 0
    once = a.layers * (layer_flops(a) + attention_flops(a, sequence)) + head
    if adapter is None:
        return 3 * once
    total = 3 * once - a.layers * layer_flops(a) - head
    if isinstance(adapter, LoraConfig):
        changed = changed_shapes(a, adapter)
        total += a.layers * sum(4 * adapter.rank * (rows + columns) for rows, columns in changed)
    return total


def published_step_flops(a: ModelConfig, batch: int, sequence: int) -> float:
    """A step of a GPT with full recompute as Narayanan et al. (2021), equation 3, count it.

    ``96 B s l h² (1 + s / 6h + V / 16lh)``: the TFLOP/s that they publish are this over the time
    and the GPUs.
    """
    layers, hidden = a.layers, a.hidden
    shares = 1 + sequence / (6 * hidden) + a.vocabulary / (16 * layers * hidden)
    return 96 * batch * sequence * layers * hidden**2 * shares
