"""The ``tokenizer`` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_core.config.section import Section


class TokenizerConfig(Section):
    """Train a tokenizer on a bounded sample of the training documents."""

    kind: Literal["byte_bpe"] = Field("byte_bpe", description="Algorithm")
    vocabulary: int = Field(4096, ge=300, le=1_000_000, description="Entries, specials included")
    sample_megabytes: float = Field(20.0, gt=0, description="Text to train on, in 10^6 bytes")
