"""Normalized texts; rules, filters and languages that drop documents; de-identification."""

from megatron_core.data.curation.normalize import normalize
from megatron_core.data.curation.rules import drop_reason
from megatron_core.data.curation.shards import curate_documents
from megatron_core.data.curation.tally import Tally

__all__ = ["Tally", "curate_documents", "drop_reason", "normalize"]
