"""Tiny recipes of every family, on a grid that is cut in every dimension."""

from __future__ import annotations

from megatron_core.config import (
    AdamW,
    BatchSizes,
    Checkpoints,
    ExpertsConfig,
    Grid,
    MaskingConfig,
    ModelConfig,
    PretrainConfig,
    RateSchedule,
)


def small_model(**changes: object) -> ModelConfig:
    """Three layers, so that two pipeline stages are uneven."""
    settings: dict[str, object] = {
        "vocabulary": 64, "positions": 32, "layers": 3, "hidden": 32, "heads": 4, "kv_heads": 2,
        "ffn": 48, "initial_std": 0.1,
    }  # fmt: skip
    return ModelConfig.model_validate(settings | changes)


FAMILIES = {
    "decoder": small_model(dropout=0.1),
    "untied": small_model(tied_embeddings=False, kv_heads=4),
    "encoder": small_model(kind="encoder", dropout=0.1),
    "experts": small_model(
        experts=ExpertsConfig(count=4, chosen=2, ffn=24, balance_loss=0.1, z_loss=0.01)
    ),
}


# What the shared blocks can do beside the Llama type, a few parts to a family.
OTHER_FAMILIES = {
    "gpt": small_model(
        norm="layer", activation="gelu_tanh", attention_bias="all", ffn_bias=True,
        position_embedding="learned", kv_heads=4, dropout=0.1,
    ),
    "olmo": small_model(norm_place="change", query_key_norm="all", tied_embeddings=False),
    "qwen": small_model(query_key_norm="head", head_width=16, attention_bias="input", window=7),
    "bert": small_model(
        kind="encoder", norm="layer", norm_place="after", activation="gelu", attention_bias="all",
        ffn_bias=True, position_embedding="learned", token_types=2, embedding_norm=True,
        final_norm=False, head_transform=True, head_bias=True, dropout=0.1,
    ),
}  # fmt: skip


# Encoders that are trained on pairs of segments too, of either kind.
PAIRS = {
    "pairs": OTHER_FAMILIES["bert"].model_copy(update={"pooler": True}),
    "rotary_pairs": small_model(kind="encoder", token_types=2, pooler=True, dropout=0.1),
}
PAIR_KINDS = {"pairs": "sentence_order", "rotary_pairs": "next_sentence"}


def recipe(family: str = "decoder", **changes: object) -> PretrainConfig:
    """Two steps of two microbatches to each of four data shards, clipped; each step saved."""
    settings: dict[str, object] = {
        "steps": 2,
        "sequence_length": 16,
        "batch": BatchSizes(sequences=16, microbatch=2),
        "optimizer": AdamW(learning_rate=1e-2, clip=0.5),
        "schedule": RateSchedule(warmup_steps=1),
        "grid": Grid(data=4, tensor=2, context=2),
        "checkpoints": Checkpoints(every=1, keep_last=20),
        "validate_every": 100,
        "trackers": [],
        "model": {**FAMILIES, **OTHER_FAMILIES, **PAIRS}[family],
        "masking": MaskingConfig(token=1),
    }
    if family in PAIRS:
        settings["masking"] = MaskingConfig(framed=True, pairs=PAIR_KINDS[family])
    return PretrainConfig.model_validate(settings | changes)
