"""Models in plain torch: no process groups, no knowledge of ranks."""

from megatron_core.model.classifier import Classifier
from megatron_core.model.initial import initialize
from megatron_core.model.language_model import LanguageModel

__all__ = ["Classifier", "LanguageModel", "initialize"]
