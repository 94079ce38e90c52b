"""The tasks of ``finetune``: their examples, models, scores and baselines."""

from megatron_core.tuning.registry import open_task
from megatron_core.tuning.results import summarize
from megatron_core.tuning.task import Place, Scores, Task, prompt_of

__all__ = ["Place", "Scores", "Task", "open_task", "prompt_of", "summarize"]
