"""Qwen3-MoE (Yang et al., 2025): Qwen3 with a mixture of experts in every layer."""

from __future__ import annotations

from megatron_core.conversion.families import llama
from megatron_core.conversion.families.mixtral import ROUTER
from megatron_core.conversion.family import Family
from megatron_core.conversion.settings import (
    ExpertCounts,
    HeadWidth,
    Ours,
    Rotary,
    Window,
    Without,
)

FAMILY = Family(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    rules=(
        llama.DECODER, Ours({"query_key_norm": "head"}), llama.SIZES, HeadWidth(), llama.BIAS,
        Rotary(), Window(switched=True), llama.PLAIN,
        ExpertCounts(
            {
                "count": "num_experts",
                "chosen": "num_experts_per_tok",
                "ffn": "moe_intermediate_size",
                "normalize": "norm_topk_prob",
            }
        ),
        Without({"decoder_sparse_step": 1, "mlp_only_layers": []}),
    ),
    tensors=(
        *llama.ENDS, *llama.BEFORE, *llama.ATTENTION,
        *llama.experts("mlp", "gate_proj", "up_proj", "down_proj"),
    ),
    twins=llama.TWINS,
    training=llama.TRAINING,
    unused=ROUTER | {"intermediate_size"},  # of dense layers, of which there are none
)  # fmt: skip
