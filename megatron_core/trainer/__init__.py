"""The training loop: one trainer for every objective."""

from megatron_core.trainer.examples import ExampleObjective, Examples
from megatron_core.trainer.language import LanguageObjective
from megatron_core.trainer.loop import Trainer
from megatron_core.trainer.run import TrainingRun

__all__ = ["ExampleObjective", "Examples", "LanguageObjective", "Trainer", "TrainingRun"]
