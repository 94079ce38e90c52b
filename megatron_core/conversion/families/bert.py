"""BERT (Devlin et al., 2019), with the head that predicts masked tokens, or with both heads."""

from __future__ import annotations

from megatron_core.conversion.family import Family
from megatron_core.conversion.settings import Ours, Pooler, Same, TokenTypes, Without
from megatron_core.conversion.tensors import TensorRule, rule

ENCODER = {
    "kind": "encoder",
    "norm": "layer",
    "activation": "gelu",
    "attention_bias": "all",
    "ffn_bias": True,
    "position_embedding": "learned",
    "head_transform": True,
    "head_bias": True,
    "tied_embeddings": True,
}
SIZES = (
    Same({"kv_heads": "num_attention_heads"}),  # as many as there are query heads
    Same(
        {
            "vocabulary": "vocab_size",
            "positions": "max_position_embeddings",
            "layers": "num_hidden_layers",
            "hidden": "hidden_size",
            "heads": "num_attention_heads",
            "ffn": "intermediate_size",
            "norm_epsilon": "layer_norm_eps",
            "dropout": "hidden_dropout_prob",
            "initial_std": "initializer_range",
        }
    ),
    TokenTypes(),
    Without(
        {
            "hidden_act": "gelu",
            "is_decoder": False,
            "add_cross_attention": False,
            "position_embedding_type": "absolute",
            "tie_word_embeddings": True,
        }
    ),
)
TRAINING = {"attention_probs_dropout_prob": 0.0}
TWINS = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
LEFT_OUT = (
    r"(bert\.)?embeddings\.position_ids",
    r"(bert\.)?pooler\.dense\.(weight|bias)",
    r"cls\.seq_relationship\.(weight|bias)",
)


def tensors(attention_norm: str, ffn_norm: str) -> tuple[TensorRule, ...]:
    """All but the norms of the embedding and of the end; the names are those of a block's two."""
    layer = "bert.encoder.layer.{layer}"
    inside = {
        "attention_norm": attention_norm,
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.output": "attention.output.dense",
        "ffn_norm": ffn_norm,
        "ffn.up": "intermediate.dense",
        "ffn.down": "output.dense",
    }
    return (
        rule("embedding", "bert.embeddings.word_embeddings"),
        rule("positions", "bert.embeddings.position_embeddings"),
        rule("token_types", "bert.embeddings.token_type_embeddings"),
        *(rule(f"layers.{{layer}}.{ours}", f"{layer}.{theirs}") for ours, theirs in inside.items()),
        rule("transform", "cls.predictions.transform.dense"),
        rule("transform.norm", "cls.predictions.transform.LayerNorm"),
        # With a tied head the bias alone is stored.
        rule("head", "cls.predictions.decoder.weight", bias="cls.predictions.bias"),
        rule("pooler", "bert.pooler.dense"),
        rule("pair_head", "cls.seq_relationship"),
    )


FAMILY = Family(
    model_type="bert",
    architecture="BertForMaskedLM",
    rules=(
        Ours({**ENCODER, "norm_place": "after", "embedding_norm": True, "final_norm": False}),
        Pooler("BertForPreTraining"),
        *SIZES,
    ),
    tensors=(
        *tensors("attention.output.LayerNorm", "output.LayerNorm"),
        rule("embedding_norm", "bert.embeddings.LayerNorm"),
    ),
    left_out=LEFT_OUT,
    older=((".gamma", ".weight"), (".beta", ".bias")),
    twins=TWINS,
    training=TRAINING,
    unused=frozenset({"classifier_dropout"}),
)
