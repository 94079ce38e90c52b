"""Qwen3 (Yang et al., 2025): norms of queries and keys, and a head width of its own."""

from __future__ import annotations

from megatron_core.conversion.families import llama
from megatron_core.conversion.family import Family
from megatron_core.conversion.settings import HeadWidth, Ours, Rotary, Window

FAMILY = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    rules=(
        llama.DECODER, Ours({"query_key_norm": "head"}), llama.SIZES, llama.DENSE, HeadWidth(),
        llama.BIAS, Rotary(), Window(switched=True), llama.PLAIN,
    ),
    tensors=(*llama.ENDS, *llama.BEFORE, *llama.ATTENTION, *llama.FEED_FORWARD),
    twins=llama.TWINS,
    training=llama.TRAINING,
)  # fmt: skip
