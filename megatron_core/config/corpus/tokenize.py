"""The ``tokenize`` section."""

from __future__ import annotations

from pydantic import Field

from megatron_core.config.section import Section


class TokenizeConfig(Section):
    """Write the documents as Megatron indexed datasets, one per source and split."""

    append_end_of_document: bool = Field(
        True, description="End each document with the end-of-document token"
    )
