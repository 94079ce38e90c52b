"""Mixtral (Jiang et al., 2024): Mistral with a mixture of experts."""

from __future__ import annotations

from megatron_core.conversion.families import llama
from megatron_core.conversion.family import Family
from megatron_core.conversion.settings import ExpertCounts, HeadWidth, Rotary, Window

ROUTER = frozenset({"router_aux_loss_coef", "output_router_logits"})

FAMILY = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    rules=(
        llama.DECODER, llama.SIZES, HeadWidth(), Rotary(), Window(), llama.PLAIN,
        ExpertCounts(
            {
                "count": "num_local_experts",
                "chosen": "num_experts_per_tok",
                "ffn": "intermediate_size",
            }
        ),
    ),
    tensors=(
        *llama.ENDS, *llama.BEFORE, *llama.ATTENTION,
        *llama.experts("block_sparse_moe", "w1", "w3", "w2"),
    ),
    twins=llama.TWINS,
    training=llama.TRAINING | {"router_jitter_noise": 0.0},
    unused=ROUTER,
)  # fmt: skip
