"""The recipe: one strict model per section of ``params.yaml``."""

from megatron_core.config.convert import ConvertConfig
from megatron_core.config.corpus import (
    ByteBpe,
    CurateConfig,
    DecontaminateConfig,
    DedupConfig,
    ExistingTokenizer,
    IngestConfig,
    SentencePieceBpe,
    SentencePieceUnigram,
    TokenizeConfig,
    TokenizerConfig,
    TrainedTokenizer,
    WordPiece,
)
from megatron_core.config.evaluate import EvaluateConfig, GenerationConfig, SamplingConfig
from megatron_core.config.execution import (
    ExecutionConfig,
    LocalExecution,
    RayExecution,
    SlurmExecution,
)
from megatron_core.config.finetune import ClassificationConfig, ContinuedConfig, FinetuneConfig
from megatron_core.config.loading import load_recipe
from megatron_core.config.model import ExpertsConfig, ModelConfig
from megatron_core.config.prediction import MaskingConfig, PredictionConfig
from megatron_core.config.pretrain import PretrainConfig
from megatron_core.config.recipe import STAGES, Recipe, training_runs
from megatron_core.config.results import AuditConfig, ReportConfig
from megatron_core.config.section import Section
from megatron_core.config.training import (
    AdamW,
    BatchSizes,
    Checkpoints,
    Grid,
    LossScale,
    RateSchedule,
    TrainingConfig,
)

__all__ = [
    "STAGES",
    "AdamW",
    "AuditConfig",
    "BatchSizes",
    "ByteBpe",
    "Checkpoints",
    "ClassificationConfig",
    "ContinuedConfig",
    "ConvertConfig",
    "CurateConfig",
    "DecontaminateConfig",
    "DedupConfig",
    "EvaluateConfig",
    "ExecutionConfig",
    "ExistingTokenizer",
    "ExpertsConfig",
    "FinetuneConfig",
    "GenerationConfig",
    "Grid",
    "IngestConfig",
    "LocalExecution",
    "LossScale",
    "MaskingConfig",
    "ModelConfig",
    "PredictionConfig",
    "PretrainConfig",
    "RateSchedule",
    "RayExecution",
    "Recipe",
    "ReportConfig",
    "SamplingConfig",
    "Section",
    "SentencePieceBpe",
    "SentencePieceUnigram",
    "SlurmExecution",
    "TokenizeConfig",
    "TokenizerConfig",
    "TrainedTokenizer",
    "TrainingConfig",
    "WordPiece",
    "load_recipe",
    "training_runs",
]
