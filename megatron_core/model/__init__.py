"""Models in plain torch: no process groups, no knowledge of ranks."""

from megatron_core.model.adapter import add_adapter
from megatron_core.model.documents import Documents
from megatron_core.model.initial import initialize
from megatron_core.model.language_model import LanguageModel
from megatron_core.model.lora import Lora, changed_matrices, merged
from megatron_core.model.parameters import (
    GridShard,
    ParameterShard,
    load_parameters,
    parameter_shards,
)
from megatron_core.model.place import Draw, GradientLeaf, Place, SequenceAttention, Share
from megatron_core.model.preference import PreferenceModel
from megatron_core.model.segments import Segments
from megatron_core.model.soft_prompt import SoftPrompt
from megatron_core.model.task import HeadSpec, TaskModel

__all__ = [
    "Documents",
    "Draw",
    "GradientLeaf",
    "GridShard",
    "HeadSpec",
    "LanguageModel",
    "Lora",
    "ParameterShard",
    "Place",
    "PreferenceModel",
    "Segments",
    "SequenceAttention",
    "Share",
    "SoftPrompt",
    "TaskModel",
    "add_adapter",
    "changed_matrices",
    "initialize",
    "load_parameters",
    "merged",
    "parameter_shards",
]
