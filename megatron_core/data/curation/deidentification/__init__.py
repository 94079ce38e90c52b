"""What identifies a person, found in clinical text and replaced by typed placeholders."""

from megatron_core.data.curation.deidentification.deidentifier import Deidentified, Deidentifier
from megatron_core.data.curation.deidentification.spans import Span, resolve

__all__ = ["Deidentified", "Deidentifier", "Span", "resolve"]
