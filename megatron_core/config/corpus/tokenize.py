"""The ``tokenize`` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_core.config.corpus.canaries import CanariesConfig
from megatron_core.config.section import Section, operational


class TokenizeConfig(Section):
    """Write the documents as Megatron indexed datasets, one per source and split."""

    append_end_of_document: bool = Field(
        True, description="End each document with the end-of-document token"
    )
    parse_special_tokens: bool = Field(
        False, description="A special token spelled out in a text becomes that token"
    )
    canaries: CanariesConfig | None = Field(
        None, description="Made-up secrets to plant in the training split; null plants none"
    )
    encoder: Literal["auto", "reference", "gigatoken"] = operational(
        "auto",
        "What encodes: the tokenizer's own library or gigatoken, which is checked against it",
    )
    check_every: int = operational(
        4096,
        "The reference encodes one document in this many too, beside the first of each shard",
        ge=1,
    )
