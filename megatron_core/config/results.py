"""The sections convert, audit and report."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_core.config.section import Section


class ConvertConfig(Section):
    """Write the models as Hugging Face folders and compare logits with ours."""

    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Of the stored weights")
    max_logit_difference: float = Field(
        1e-3, gt=0, description="Largest difference from ours that passes, in float32"
    )


class AuditConfig(Section):
    """Verify every manifest and retrain from a checkpoint to show that the bits agree."""

    replay: bool = Field(True, description="Retrain from the last checkpoint but one")


class ReportConfig(Section):
    """One self-contained HTML page."""

    title: str = Field("A language model, rebuilt", description="Heading of the page")
