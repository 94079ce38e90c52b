"""LitGPT's model, for a plain loop. It is an optional guest: ``pip install litgpt``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from megatron_core.config import ModelConfig


def litgpt(model: ModelConfig, weights: Mapping[str, Tensor]) -> nn.Module:
    """Its GPT of the same settings and weights; queries, keys and values are one product.

    Raises:
        ImportError: it is not installed.
    """
    from litgpt.config import Config
    from litgpt.model import GPT

    theirs = GPT(
        Config(
            block_size=model.positions, n_layer=model.layers, n_embd=model.hidden,
            vocab_size=model.vocabulary, padded_vocab_size=model.vocabulary, n_head=model.heads,
            n_query_groups=model.kv_heads, head_size=model.head_size, intermediate_size=model.ffn,
            norm_class_name="RMSNorm", norm_eps=model.norm_epsilon, parallel_residual=False,
            rotary_percentage=1.0, rope_base=int(model.rope_theta), bias=False,
            mlp_class_name="LLaMAMLP",
        )
    )  # fmt: skip
    if model.tied_embeddings:
        theirs.lm_head.weight = theirs.transformer.wte.weight
    theirs.load_state_dict(_named(model, weights))
    return theirs


def _named(model: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    head = "embedding.weight" if model.tied_embeddings else "head.weight"
    named = {
        "transformer.wte.weight": weights["embedding.weight"],
        "transformer.ln_f.weight": weights["final_norm.weight"],
        "lm_head.weight": weights[head],
    }
    for n in range(model.layers):
        ours = {
            name.removeprefix(f"layers.{n}.").removesuffix(".weight"): weight
            for name, weight in weights.items()
            if name.startswith(f"layers.{n}.")
        }
        qkv = torch.cat([ours[f"attention.{name}"] for name in ("query", "key", "value")])
        block = {
            "norm_1": ours["attention_norm"], "attn.qkv": qkv,
            "attn.proj": ours["attention.output"], "norm_2": ours["ffn_norm"],
            "mlp.fc_1": ours["ffn.gate"], "mlp.fc_2": ours["ffn.up"], "mlp.proj": ours["ffn.down"],
        }  # fmt: skip
        named |= {f"transformer.h.{n}.{name}.weight": weight for name, weight in block.items()}
    return named
