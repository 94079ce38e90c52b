"""The kinds of sources: one module each, one contract."""

from megatron_core.data.sources.registry import open_source
from megatron_core.data.sources.source import Broken, Record, Source

__all__ = ["Broken", "Record", "Source", "open_source"]
