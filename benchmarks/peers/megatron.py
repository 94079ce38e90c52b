"""Megatron-Core's GPT, for a plain loop. It is an optional guest: ``pip install megatron-core``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megatron_core.config import ModelConfig
from megatron_core.conversion.megatron_names import megatron_arguments, megatron_links

# Names where norms are modules of their own, as they are without Transformer Engine.
LOCAL = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}


class Logits(nn.Module):
    """Logits ``[b, s, vocabulary]`` of ``tokens [b, s]``."""

    def __init__(self, gpt: nn.Module, *, masked: bool) -> None:
        super().__init__()
        self.gpt, self.masked = gpt, masked

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        positions = torch.arange(length, device=tokens.device).expand_as(tokens)
        mask = None
        if self.masked:
            mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=tokens.device).triu(1)
        logits: Tensor = self.gpt(tokens, positions, mask)
        return logits


def megatron(model: ModelConfig, weights: Mapping[str, Tensor], stack: ExitStack) -> nn.Module:
    """Its GPTModel of the same settings and weights, on Transformer Engine's layers if there are.

    A process group of one rank is open until ``stack`` closes.

    Raises:
        ImportError: it is not installed.
    """
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.core.transformer import TransformerConfig

    if not dist.is_initialized():
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        stack.callback(dist.destroy_process_group)
    parallel_state.initialize_model_parallel()
    stack.callback(parallel_state.destroy_model_parallel)
    if torch.cuda.is_available():
        model_parallel_cuda_manual_seed(1)
    arguments = megatron_arguments(model, model.vocabulary)
    engine = find_spec("transformer_engine") is not None
    settings = arguments["TransformerConfig"] | {"activation_func": nn.functional.silu}
    config = TransformerConfig(
        **settings, use_cpu_initialization=True, attention_dropout=0.0, hidden_dropout=0.0,
        gradient_accumulation_fusion=False, bias_dropout_fusion=engine, masked_softmax_fusion=False,
    )  # fmt: skip
    gpt = GPTModel(config=config, transformer_layer_spec=_spec(engine), **arguments["GPTModel"])
    _give(gpt, model, weights)
    return Logits(gpt, masked=not engine)


def _spec(engine: bool) -> Any:
    from megatron.core.models.gpt import gpt_layer_specs

    if engine:
        return gpt_layer_specs.get_gpt_layer_with_transformer_engine_spec()
    return gpt_layer_specs.get_gpt_layer_local_spec(normalization="RMSNorm")


def _give(gpt: nn.Module, model: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    parameters = dict(gpt.named_parameters())
    with torch.no_grad():
        for link in megatron_links(model, model.vocabulary):
            name = link.theirs
            if name not in parameters:
                for inside, own in LOCAL.items():
                    name = name.replace(inside, own)
            if not (name == "output_layer.weight" and model.tied_embeddings):
                parameters[name].copy_(link.join(weights))
