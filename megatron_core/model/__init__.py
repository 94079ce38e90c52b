"""Models in plain torch: no process groups, no knowledge of ranks."""

from megatron_core.model.classifier import Classifier
from megatron_core.model.documents import Documents
from megatron_core.model.initial import initialize
from megatron_core.model.language_model import LanguageModel
from megatron_core.model.parameters import (
    GridShard,
    ParameterShard,
    load_parameters,
    parameter_shards,
)
from megatron_core.model.place import Draw, GradientLeaf, Place, SequenceAttention, Share
from megatron_core.model.segments import Segments

__all__ = [
    "Classifier",
    "Documents",
    "Draw",
    "GradientLeaf",
    "GridShard",
    "LanguageModel",
    "ParameterShard",
    "Place",
    "Segments",
    "SequenceAttention",
    "Share",
    "initialize",
    "load_parameters",
    "parameter_shards",
]
