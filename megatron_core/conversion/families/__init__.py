"""The families of Hugging Face that our model can be, a module each."""

from megatron_core.conversion.families import (
    bert,
    gpt2,
    llama,
    megatron_bert,
    mistral,
    mixtral,
    olmo2,
    olmoe,
    qwen2,
    qwen3,
    qwen3_moe,
)
from megatron_core.conversion.family import Family

# Where a model is of several families, it is written as the first.
FAMILIES: tuple[Family, ...] = (
    llama.FAMILY,
    mistral.FAMILY,
    qwen2.FAMILY,
    qwen3.FAMILY,
    olmo2.FAMILY,
    gpt2.FAMILY,
    mixtral.FAMILY,
    qwen3_moe.FAMILY,
    olmoe.FAMILY,
    bert.FAMILY,
    megatron_bert.FAMILY,
)

__all__ = ["FAMILIES"]
