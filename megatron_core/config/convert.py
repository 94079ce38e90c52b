"""The ``convert`` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_core.config.section import Section

Dtype = Literal["float32", "bfloat16", "float16"]


class ConvertConfig(Section):
    """Write the models for other libraries, and compare the logits of transformers with ours."""

    also: list[Literal["megatron_core", "gguf"]] = Field(
        default_factory=list,
        description="Formats beside Hugging Face folders, which evaluate reads; gguf is an extra",
    )
    dtype: Dtype = Field("float32", description="Of the stored weights")
    shard_bytes: int = Field(
        5_000_000_000, ge=1, description="Largest safetensors file, in bytes, but for one tensor"
    )
    vocabulary_multiple: int = Field(
        128,
        ge=1,
        description="Rows of Megatron-Core's vocabulary are padded to a multiple of this; it asks "
        "for 128 × the tensor-parallel ranks to come",
    )
    compare_logits: bool = Field(
        True, description="Compare logits with transformers; both models are then in memory"
    )
    max_logit_difference: float = Field(
        1e-3, gt=0, description="Largest difference from ours that passes, in float32"
    )
