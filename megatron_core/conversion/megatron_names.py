"""How our model is spelled in Megatron-Core: arguments and tensor names."""

from __future__ import annotations

from typing import Any

from megatron_core.config import ModelConfig
from megatron_core.config.model import RotaryScaling
from megatron_core.conversion.tensors import (
    Grouped,
    Link,
    Operation,
    Padded,
    Same,
    TensorRule,
    link_tensors,
    rule,
)
from megatron_core.errors import ReforgeError

_LAYER = "decoder.layers.{layer}"
# What its llama3 scaling has written into its code.
_LLAMA3 = RotaryScaling(kind="llama3", factor=1.0, original_positions=8192, low=1.0, high=4.0)
_ACTIVATIONS = {"swiglu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_tanh"}


def megatron_links(model: ModelConfig, rows: int) -> list[Link]:
    """What each tensor is called there, with the number of its layer and of its expert.

    Args:
        model: Architecture.
        rows: Of the vocabulary, padding included.

    Raises:
        ReforgeError: naming each tensor that has no counterpart there.
    """
    return link_tensors(model, _rules(model, rows), "Megatron-Core")


def _rules(model: ModelConfig, rows: int) -> list[TensorRule]:
    words: Operation = Same() if rows == model.vocabulary else Padded(rows)
    qkv = tuple(f"layers.{{layer}}.attention.{name}" for name in ("query", "key", "value"))
    attention, mlp = f"{_LAYER}.self_attention", f"{_LAYER}.mlp"
    experts = f"{mlp}.experts.experts.{{expert}}"
    expert = "layers.{layer}.ffn.experts.{expert}"
    if model.experts is None:
        ffn_norm = _norm("ffn_norm", f"{mlp}.linear_fc1.layer_norm")
    else:
        ffn_norm = rule("layers.{layer}.ffn_norm", f"{_LAYER}.pre_mlp_layernorm")
    inner = ("gate", "up") if model.gated else ("up",)
    return [
        rule("embedding", "embedding.word_embeddings", words),
        rule("positions", "embedding.position_embeddings"),
        _norm("attention_norm", f"{attention}.linear_qkv.layer_norm"),
        rule(qkv, f"{attention}.linear_qkv", Grouped(model.kv_heads)),
        rule("layers.{layer}.attention.query_norm", f"{attention}.q_layernorm"),
        rule("layers.{layer}.attention.key_norm", f"{attention}.k_layernorm"),
        rule("layers.{layer}.attention.output", f"{attention}.linear_proj"),
        ffn_norm,
        rule(tuple(f"layers.{{layer}}.ffn.{name}" for name in inner), f"{mlp}.linear_fc1"),
        rule("layers.{layer}.ffn.down", f"{mlp}.linear_fc2"),
        rule("layers.{layer}.ffn.router", f"{mlp}.router"),
        rule((f"{expert}.gate", f"{expert}.up"), f"{experts}.linear_fc1"),
        rule(f"{expert}.down", f"{experts}.linear_fc2"),
        rule("final_norm", "decoder.final_layernorm"),
        rule("head", "output_layer", words),
    ]


def _norm(ours: str, theirs: str) -> TensorRule:
    """A norm that belongs to the layer after it."""
    return rule(f"layers.{{layer}}.{ours}", f"{theirs}_weight", bias=f"{theirs}_bias")


def megatron_arguments(model: ModelConfig, rows: int) -> dict[str, dict[str, Any]]:
    """What its ``TransformerConfig`` and ``GPTModel`` are built with.

    Raises:
        ReforgeError: naming each setting that it has not.
    """
    if problems := _problems(model):
        raise ReforgeError("Megatron-Core has no such model:\n  " + "\n  ".join(problems))
    scaling = model.rope_scaling
    transformer: dict[str, Any] = {
        "num_layers": model.layers,
        "hidden_size": model.hidden,
        "ffn_hidden_size": model.ffn,
        "num_attention_heads": model.heads,
        "num_query_groups": model.kv_heads,
        "kv_channels": model.head_size,
        "normalization": "RMSNorm" if model.norm == "rms" else "LayerNorm",
        "layernorm_epsilon": model.norm_epsilon,
        "add_bias_linear": model.ffn_bias,
        "add_qkv_bias": model.attention_bias == "input",
        "gated_linear_unit": model.gated,
        "activation_func": _ACTIVATIONS[model.activation],
        "qk_layernorm": model.query_key_norm == "head",
        "init_method_std": model.initial_std,
    }
    if model.window is not None:
        transformer["window_size"] = [model.window - 1, 0]
    if (experts := model.experts) is not None:
        transformer |= {
            "num_moe_experts": experts.count,
            "moe_router_topk": experts.chosen,
            "moe_ffn_hidden_size": experts.ffn,
            "moe_router_load_balancing_type": "aux_loss",
            "moe_aux_loss_coeff": experts.balance_loss,
            "moe_z_loss_coeff": experts.z_loss,
            "moe_router_pre_softmax": not experts.normalize,
        }
    learned = model.position_embedding == "learned"
    gpt: dict[str, Any] = {
        "vocab_size": rows,
        "max_sequence_length": model.positions,
        "position_embedding_type": "learned_absolute" if learned else "rope",
        "share_embeddings_and_output_weights": model.tied_embeddings,
    }
    if not learned:
        gpt["rotary_base"] = model.rope_theta
    if scaling is not None and scaling.kind == "llama3":
        gpt |= {"rope_scaling": True, "rope_scaling_factor": scaling.factor}
    if scaling is not None and scaling.kind == "linear":
        gpt["seq_len_interpolation_factor"] = scaling.factor
    return {"GPTModel": gpt, "TransformerConfig": transformer}


def _problems(model: ModelConfig) -> list[str]:
    needed = {
        "kind": ("decoder",),
        "norm_place": ("before",),
        "query_key_norm": ("none", "head"),
        "embedding_norm": (False,),
        "final_norm": (True,),
        "token_types": (0,),
        "head_transform": (False,),
        "head_bias": (False,),
    }
    problems = [
        f"{name} is {getattr(model, name)!r}, there {' or '.join(repr(v) for v in allowed)}"
        for name, allowed in needed.items()
        if getattr(model, name) not in allowed
    ]
    biased = model.ffn_bias and model.experts is None
    if (model.attention_bias == "all") != biased:
        problems.append(
            f"attention_bias is {model.attention_bias!r} and ffn_bias {model.ffn_bias}, there all "
            "layers have biases, or only queries, keys and values, or none"
        )
    scaling = model.rope_scaling
    if scaling is not None and scaling.kind == "yarn":
        problems.append("rope_scaling.kind is 'yarn', there 'linear' or 'llama3'")
    if scaling is not None and scaling.kind == "llama3":
        fixed = scaling.model_copy(update={"factor": _LLAMA3.factor, "sharpness": None})
        if fixed != _LLAMA3:
            problems.append(f"rope_scaling is {scaling!r}, there low 1, high 4, original 8192")
    return problems
