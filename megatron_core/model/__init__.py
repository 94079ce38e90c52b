"""Models in plain torch: no process groups, no knowledge of ranks."""

from megatron_core.model.classifier import Classifier
from megatron_core.model.decoder import Decoder
from megatron_core.model.initial import initialize

__all__ = ["Classifier", "Decoder", "initialize"]
