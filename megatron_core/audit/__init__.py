"""Proof: what is on disk is what was recorded, and what differs is named."""

from megatron_core.audit.compare import Comparison, compare
from megatron_core.audit.pipeline import StageAudit, audit_stage, chain_problems
from megatron_core.audit.roots import RecordedRoots, project_roots

__all__ = [
    "Comparison",
    "RecordedRoots",
    "StageAudit",
    "audit_stage",
    "chain_problems",
    "compare",
    "project_roots",
]
