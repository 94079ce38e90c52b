"""Weights to and from other libraries."""

from megatron_core.conversion.certificate import CERTIFICATE
from megatron_core.conversion.companions import (
    check_same_tokenizer,
    check_tokenizer,
    copy_tokenizer,
)
from megatron_core.conversion.family import computed
from megatron_core.conversion.folder import HuggingFaceModel
from megatron_core.conversion.gguf import export_gguf
from megatron_core.conversion.hugging_face import export_model, find_family
from megatron_core.conversion.imported import import_certificate
from megatron_core.conversion.megatron import MegatronModel, export_megatron, is_megatron_folder
from megatron_core.conversion.parity import logit_difference
from megatron_core.conversion.tensors import tensor_shapes

__all__ = [
    "CERTIFICATE",
    "HuggingFaceModel",
    "MegatronModel",
    "check_same_tokenizer",
    "check_tokenizer",
    "computed",
    "copy_tokenizer",
    "export_gguf",
    "export_megatron",
    "export_model",
    "find_family",
    "import_certificate",
    "is_megatron_folder",
    "logit_difference",
    "tensor_shapes",
]
