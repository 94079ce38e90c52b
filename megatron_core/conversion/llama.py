"""How our decoder is spelled in Hugging Face's Llama: settings and tensor names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from megatron_core.config import ModelConfig
from megatron_core.errors import ReforgeError

# ours -> theirs. Both use the half-split rotary form, so no row is permuted.
_SETTINGS = {
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "ffn": "intermediate_size",
    "norm_epsilon": "rms_norm_eps",
    "initial_std": "initializer_range",
    "tied_embeddings": "tie_word_embeddings",
}
_LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn.gate": "mlp.gate_proj",
    "ffn.up": "mlp.up_proj",
    "ffn.down": "mlp.down_proj",
}
# What a Llama may have and our decoder has not: the values that mean "without".
_WITHOUT: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
}


def tensor_names(config: ModelConfig) -> dict[str, str]:
    """``{our parameter: their tensor}`` of all stored tensors, from the input to the output."""
    names = {"embedding.weight": "model.embed_tokens.weight"}
    for layer in range(config.layers):
        for ours, theirs in _LAYER_NAMES.items():
            names[f"layers.{layer}.{ours}.weight"] = f"model.layers.{layer}.{theirs}.weight"
    names["final_norm.weight"] = "model.norm.weight"
    if not config.tied_embeddings:
        names["head.weight"] = "lm_head.weight"
    return names


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each stored tensor, by our name."""
    queries, keys = config.hidden, config.kv_heads * config.head_size
    layer: dict[str, tuple[int, ...]] = {
        "attention_norm": (config.hidden,),
        "attention.query": (queries, config.hidden),
        "attention.key": (keys, config.hidden),
        "attention.value": (keys, config.hidden),
        "attention.output": (config.hidden, queries),
        "ffn_norm": (config.hidden,),
        "ffn.gate": (config.ffn, config.hidden),
        "ffn.up": (config.ffn, config.hidden),
        "ffn.down": (config.hidden, config.ffn),
    }
    ends: dict[str, tuple[int, ...]] = {
        "embedding.weight": (config.vocabulary, config.hidden),
        "final_norm.weight": (config.hidden,),
        "head.weight": (config.vocabulary, config.hidden),
    }
    return {
        name: ends[name] if name in ends
        else layer[name.split(".", 2)[2].removesuffix(".weight")]
        for name in tensor_names(config)
    }  # fmt: skip


def to_llama(config: ModelConfig) -> dict[str, Any]:
    """The settings of ``config.json`` that describe the architecture."""
    ours = config.model_dump()
    return {
        **_WITHOUT,
        **{theirs: ours[name] for name, theirs in _SETTINGS.items()},
        "architectures": ["LlamaForCausalLM"],
        "attention_dropout": 0.0,
        "head_dim": config.head_size,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "rope_theta": config.rope_theta,  # for readers older than transformers 5
    }


def from_llama(settings: Mapping[str, Any], where: str) -> ModelConfig:
    """Our configuration from the settings of a ``config.json``.

    Raises:
        ReforgeError: a setting is missing, or the model has a part that our decoder has not;
            ``where`` names the file in the message.
    """
    for name, expected in _WITHOUT.items():
        if (value := settings.get(name, expected)) != expected:
            raise ReforgeError(f"{where}: {name} is {value!r}; only {expected!r} can be read")
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ReforgeError(f"{where}: rotary positions of type {kind!r}; only 'default' is read")
    # What old files leave out means this.
    given = {"num_key_value_heads": settings.get("num_attention_heads"), **settings}
    missing = [theirs for theirs in _SETTINGS.values() if given.get(theirs) is None]
    if missing:
        raise ReforgeError(f"{where} lacks {', '.join(missing)}: it describes no Llama")
    theta = rope.get("rope_theta", settings.get("rope_theta", 10_000.0))
    try:
        config = ModelConfig(
            rope_theta=theta, **{ours: given[theirs] for ours, theirs in _SETTINGS.items()}
        )
    except ValidationError as error:
        raise ReforgeError(f"{where}: {error}") from error
    if (settings.get("head_dim") or config.head_size) != config.head_size:
        raise ReforgeError(
            f"{where}: head_dim is {settings['head_dim']}; only hidden_size / "
            f"num_attention_heads = {config.head_size} can be read"
        )
    return config
