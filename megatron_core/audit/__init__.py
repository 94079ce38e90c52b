"""Proof: what is on disk is what was recorded, and what differs is named."""

from megatron_core.audit.compare import compare
from megatron_core.audit.comparison import Comparison
from megatron_core.audit.pipeline import StageAudit, audit_stage, chain_problems
from megatron_core.audit.roots import RecordedRoots, project_roots
from megatron_core.audit.runs import compare_runs, start_of_replay

__all__ = [
    "Comparison",
    "RecordedRoots",
    "StageAudit",
    "audit_stage",
    "chain_problems",
    "compare",
    "compare_runs",
    "project_roots",
    "start_of_replay",
]
