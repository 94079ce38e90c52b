"""The ``curate`` section."""

from __future__ import annotations

from pydantic import Field

from megatron_core.config.section import Section


class CurateConfig(Section):
    """Normalize texts and drop those that fail a quality rule; each drop has a reason."""

    min_characters: int = Field(40, ge=0, description="Shortest document kept")
    max_characters: int = Field(1_000_000, ge=1, description="Longest document kept")
    min_alphabetic: float = Field(
        0.5, ge=0, le=1, description="Smallest share of letters and spaces among the characters"
    )
    max_repeated_lines: float = Field(
        0.5, ge=0, le=1, description="Largest share of lines that repeat an earlier line"
    )
