"""The ``convert`` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_core.config.section import Section


class ConvertConfig(Section):
    """Write the models as Hugging Face folders, and compare their logits with ours."""

    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Of the stored weights"
    )
    shard_bytes: int = Field(
        5_000_000_000, ge=1, description="Largest safetensors file, in bytes, but for one tensor"
    )
    compare_logits: bool = Field(
        True, description="Compare logits with transformers; both models are then in memory"
    )
    max_logit_difference: float = Field(
        1e-3, gt=0, description="Largest difference from ours that passes, in float32"
    )
