"""The ``ingest`` section."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from megatron_core.config.corpus.sources import Source
from megatron_core.config.section import Section


class IngestConfig(Section):
    """Read the sources into one form: JSON lines with stable ids, in a fixed number of shards."""

    sources: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Source] = Field(
        min_length=1, description="What to read, by name"
    )
    shards: int = Field(4, ge=1, le=99999, description="Files the documents are dealt into")
    max_documents: int | None = Field(
        None, ge=1, description="Documents kept of each source; null keeps all"
    )
    max_broken: int = Field(
        0, ge=0, description="Records and files that may be unreadable before the stage stops"
    )
    max_broken_share: float = Field(
        0.0, ge=0, lt=1, description="The same as a share of all records; the larger one counts"
    )
