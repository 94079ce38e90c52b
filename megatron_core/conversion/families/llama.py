"""Llama 2 and 3 (Touvron et al., 2023; Dubey et al., 2024), SmolLM, and what others share.

Both sides use the half-split rotary form, so no row is permuted.
"""

from __future__ import annotations

from megatron_core.conversion.family import Family
from megatron_core.conversion.settings import Choice, HeadWidth, Ours, Rotary, Same, Without
from megatron_core.conversion.tensors import TensorRule, rule

SIZES = Same(
    {
        "vocabulary": "vocab_size",
        "positions": "max_position_embeddings",
        "layers": "num_hidden_layers",
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "norm_epsilon": "rms_norm_eps",
        "initial_std": "initializer_range",
        "tied_embeddings": "tie_word_embeddings",
    }
)
DENSE = Same({"ffn": "intermediate_size"})
PLAIN = Without({"hidden_act": "silu"})
DECODER = Ours({"kind": "decoder"})
BIAS = Choice("attention_bias", "attention_bias", {"none": False, "all": True})
TRAINING = {"attention_dropout": 0.0}
# A tied head that some writers store twice.
TWINS = {"lm_head.weight": "model.embed_tokens.weight"}

ENDS = (
    rule("embedding", "model.embed_tokens"),
    rule("final_norm", "model.norm"),
    rule("head", "lm_head"),
)
ATTENTION = tuple(
    rule(f"layers.{{layer}}.attention.{ours}", f"model.layers.{{layer}}.self_attn.{theirs}")
    for ours, theirs in {
        "query": "q_proj",
        "key": "k_proj",
        "value": "v_proj",
        "output": "o_proj",
        "query_norm": "q_norm",
        "key_norm": "k_norm",
    }.items()
)
FEED_FORWARD = tuple(
    rule(f"layers.{{layer}}.ffn.{name}", f"model.layers.{{layer}}.mlp.{name}_proj")
    for name in ("gate", "up", "down")
)


def norms(attention: str, ffn: str) -> tuple[TensorRule, ...]:
    """The two norms of a block, which families place and name in their own ways."""
    return (
        rule("layers.{layer}.attention_norm", f"model.layers.{{layer}}.{attention}"),
        rule("layers.{layer}.ffn_norm", f"model.layers.{{layer}}.{ffn}"),
    )


BEFORE = norms("input_layernorm", "post_attention_layernorm")


def experts(inside: str, gate: str, up: str, down: str) -> tuple[TensorRule, ...]:
    """A mixture whose module is called ``inside``, with a tensor per expert on the disk."""
    module = "layers.{layer}.ffn.experts.{expert}"
    path = f"model.layers.{{layer}}.{inside}"
    return (
        rule("layers.{layer}.ffn.router", f"{path}.gate"),
        *(
            rule(f"{module}.{ours}", f"{path}.experts.{{expert}}.{theirs}")
            for ours, theirs in {"gate": gate, "up": up, "down": down}.items()
        ),
    )  # fmt: skip


FAMILY = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    rules=(
        DECODER, SIZES, DENSE, HeadWidth(), BIAS, Rotary(), PLAIN,
        Same({"ffn_bias": "mlp_bias"}),
    ),
    tensors=(*ENDS, *BEFORE, *ATTENTION, *FEED_FORWARD),
    left_out=(r".*\.rotary_emb\.inv_freq",),
    twins=TWINS,
    training=TRAINING,
    unused=frozenset({"pretraining_tp"}),
)  # fmt: skip
