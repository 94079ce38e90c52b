"""Weights to and from other libraries."""

from megatron_core.conversion.hugging_face import (
    CERTIFICATE,
    export_decoder,
    import_decoder,
    logit_difference,
)

__all__ = ["CERTIFICATE", "export_decoder", "import_decoder", "logit_difference"]
