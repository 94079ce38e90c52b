"""OLMo 2 (OLMo team, 2024): norms of what a layer adds, and of all queries and all keys."""

from __future__ import annotations

from megatron_core.conversion.families import llama
from megatron_core.conversion.family import Family
from megatron_core.conversion.settings import Ours, Rotary

FAMILY = Family(
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    rules=(
        llama.DECODER, Ours({"query_key_norm": "all", "norm_place": "change"}), llama.SIZES,
        llama.DENSE, llama.BIAS, Rotary(), llama.PLAIN,
    ),
    tensors=(
        *llama.ENDS, *llama.norms("post_attention_layernorm", "post_feedforward_layernorm"),
        *llama.ATTENTION, *llama.FEED_FORWARD,
    ),
    twins=llama.TWINS,
    training=llama.TRAINING,
)  # fmt: skip
