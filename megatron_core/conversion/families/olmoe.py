"""OLMoE (Muennighoff et al., 2024): norms of all queries and all keys, many small experts."""

from __future__ import annotations

from megatron_core.conversion.families import llama
from megatron_core.conversion.families.mixtral import ROUTER
from megatron_core.conversion.family import Family
from megatron_core.conversion.settings import ExpertCounts, Ours, Rotary, Without

FAMILY = Family(
    model_type="olmoe",
    architecture="OlmoeForCausalLM",
    rules=(
        llama.DECODER, Ours({"query_key_norm": "all"}), llama.SIZES, llama.BIAS, Rotary(),
        llama.PLAIN, Without({"clip_qkv": None}),
        ExpertCounts(
            {
                "count": "num_experts",
                "chosen": "num_experts_per_tok",
                "ffn": "intermediate_size",
                "normalize": "norm_topk_prob",
            }
        ),
    ),
    tensors=(
        *llama.ENDS, *llama.BEFORE, *llama.ATTENTION,
        *llama.experts("mlp", "gate_proj", "up_proj", "down_proj"),
    ),
    twins=llama.TWINS,
    training=llama.TRAINING,
    unused=ROUTER,
)  # fmt: skip
