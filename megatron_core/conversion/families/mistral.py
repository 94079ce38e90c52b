"""Mistral (Jiang et al., 2023): Llama with a sliding window."""

from __future__ import annotations

from megatron_core.conversion.families import llama
from megatron_core.conversion.family import Family
from megatron_core.conversion.settings import HeadWidth, Rotary, Window

FAMILY = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    rules=(
        llama.DECODER, llama.SIZES, llama.DENSE, HeadWidth(), Rotary(), Window(), llama.PLAIN,
    ),
    tensors=(*llama.ENDS, *llama.BEFORE, *llama.ATTENTION, *llama.FEED_FORWARD),
    twins=llama.TWINS,
    training=llama.TRAINING,
)  # fmt: skip
