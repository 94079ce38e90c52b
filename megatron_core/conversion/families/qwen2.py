"""Qwen2 (Yang et al., 2024): Llama with biases of queries, keys and values."""

from __future__ import annotations

from megatron_core.conversion.families import llama
from megatron_core.conversion.family import Family
from megatron_core.conversion.settings import Ours, Rotary, Window

FAMILY = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    rules=(
        llama.DECODER, Ours({"attention_bias": "input"}), llama.SIZES, llama.DENSE, Rotary(),
        Window(switched=True), llama.PLAIN,
    ),
    tensors=(*llama.ENDS, *llama.BEFORE, *llama.ATTENTION, *llama.FEED_FORWARD),
    twins=llama.TWINS,
    training=llama.TRAINING,
)  # fmt: skip
