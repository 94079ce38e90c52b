"""Weights to and from other libraries."""

from megatron_core.conversion.certificate import CERTIFICATE
from megatron_core.conversion.folder import HuggingFaceModel
from megatron_core.conversion.hugging_face import export_model, find_family
from megatron_core.conversion.parity import logit_difference

__all__ = [
    "CERTIFICATE",
    "HuggingFaceModel",
    "export_model",
    "find_family",
    "logit_difference",
]
