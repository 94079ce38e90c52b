"""GPT-2 (Radford et al., 2019) and, by its sizes, GPT-3: matrices are stored ``[in, out]``."""

from __future__ import annotations

from megatron_core.conversion.family import Family
from megatron_core.conversion.settings import Choice, FeedForwardWidth, Ours, Same, Without
from megatron_core.conversion.tensors import Transposed, rule

FAMILY = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    rules=(
        Ours(
            {
                "kind": "decoder",
                "norm": "layer",
                "attention_bias": "all",
                "ffn_bias": True,
                "position_embedding": "learned",
            }
        ),
        Same({"kv_heads": "n_head"}),  # as many as there are query heads
        Same(
            {
                "vocabulary": "vocab_size",
                "positions": "n_positions",
                "layers": "n_layer",
                "hidden": "n_embd",
                "heads": "n_head",
                "norm_epsilon": "layer_norm_epsilon",
                "initial_std": "initializer_range",
                "tied_embeddings": "tie_word_embeddings",
            }
        ),
        Same({"dropout": "embd_pdrop"}),
        Same({"dropout": "resid_pdrop"}),
        FeedForwardWidth(),
        Choice(
            "activation", "activation_function", {"gelu_tanh": "gelu_new", "gelu": "gelu"},
            {"gelu_pytorch_tanh": "gelu_tanh"},
        ),
        Without(
            {
                "scale_attn_weights": True,
                "scale_attn_by_inverse_layer_idx": False,
                "add_cross_attention": False,
            }
        ),
    ),
    tensors=(
        rule("embedding", "transformer.wte"),
        rule("positions", "transformer.wpe"),
        rule("layers.{layer}.attention_norm", "transformer.h.{layer}.ln_1"),
        rule(
            tuple(f"layers.{{layer}}.attention.{name}" for name in ("query", "key", "value")),
            "transformer.h.{layer}.attn.c_attn", Transposed(),
        ),
        rule("layers.{layer}.attention.output", "transformer.h.{layer}.attn.c_proj", Transposed()),
        rule("layers.{layer}.ffn_norm", "transformer.h.{layer}.ln_2"),
        rule("layers.{layer}.ffn.up", "transformer.h.{layer}.mlp.c_fc", Transposed()),
        rule("layers.{layer}.ffn.down", "transformer.h.{layer}.mlp.c_proj", Transposed()),
        rule("final_norm", "transformer.ln_f"),
        rule("head", "lm_head"),
    ),
    prefix="transformer.",
    left_out=(r".*\.attn\.(masked_)?bias",),  # the causal mask
    twins={"lm_head.weight": "transformer.wte.weight"},
    training={"attn_pdrop": 0.0},
    unused=frozenset(
        {
            "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout",
            "summary_proj_to_labels", "summary_type", "summary_use_proj",
        }
    ),
)  # fmt: skip
