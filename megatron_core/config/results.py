"""The sections audit and report."""

from __future__ import annotations

from pydantic import Field

from megatron_core.config.section import Section


class AuditConfig(Section):
    """Verify every manifest and retrain from a checkpoint to show that the bits agree."""

    replay: bool = Field(True, description="Retrain from the last checkpoint but one")


class ReportConfig(Section):
    """One self-contained HTML page."""

    title: str = Field("A language model, rebuilt", description="Heading of the page")
