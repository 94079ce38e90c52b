"""Tasks of lm-eval by name, their data at hand before anything is computed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from megatron_core.config import EvaluateConfig
from megatron_core.errors import ConfigError, ReforgeError

TaskDict = dict[str, Any]
_DEFAULT_TOKENS = 256  # lm-eval's longest continuation where a task says none


def load_tasks(config: EvaluateConfig, *, context: int) -> TaskDict:
    """``evaluate.tasks`` as lm-eval loads them, with their data.

    Args:
        config: Names, folder of further tasks.
        context: Tokens a model sees at most.

    Raises:
        ConfigError: a name is unknown or comes in twice, or the folder is not there.
        ReforgeError: a task's data cannot be had, it runs code of its own, or asks for longer
            continuations than the context has room for.
    """
    if not config.tasks:
        return {"tasks": {}, "groups": {}, "group_map": {}}
    manager = _open_manager(config)
    try:
        loaded: TaskDict = dict(manager.load(list(config.tasks)))
    except ValueError as error:
        if "Duplicate" not in str(error):
            raise _unavailable(config, error) from error
        raise ConfigError(f"evaluate.tasks: {error}: name the group or the task") from error
    except Exception as error:  # whatever the library of a data set raises
        raise _unavailable(config, error) from error
    for name, task in loaded["tasks"].items():
        _check(name, task, context)
    return loaded


def _open_manager(config: EvaluateConfig) -> TaskManager:
    """With the folder's tasks alone where these are enough: lm-eval has thousands."""
    if config.include is not None:
        if not Path(config.include).is_dir():
            raise ConfigError(f"evaluate.include = {config.include!r}: is no folder")
        manager = TaskManager(include_path=config.include, include_defaults=False)
        if set(config.tasks) <= set(manager.all_tasks):
            return manager
    manager = TaskManager(include_path=config.include)
    unknown = [name for name in config.tasks if name not in manager.all_tasks]
    if unknown:
        raise ConfigError("\n".join(_unknown(name, manager.all_tasks) for name in unknown))
    return manager


def _unknown(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean `{close[0]}`?" if close else "`lm_eval ls tasks` lists all"
    return f"evaluate.tasks: there is no task {name!r}; {hint}"


def _unavailable(config: EvaluateConfig, error: Exception) -> ReforgeError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    advice = (
        "it cannot be fetched from the Hub now"
        if config.hub
        else "evaluate.hub is false, so nothing is fetched; name local files in the task's YAML, "
        "or set evaluate.hub: true"
    )
    names = ", ".join(config.tasks)
    return ReforgeError(f"evaluate.tasks = {names}: their data is not all here ({first}): {advice}")


def _check(name: str, task: Any, context: int) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise ReforgeError(f"task {name} runs code that models write: it is not run here")
    if getattr(task, "MULTIMODAL", False):
        raise ReforgeError(f"task {name} shows pictures: the models here read text")
    if task.OUTPUT_TYPE == "generate_until":
        settings: Mapping[str, Any] = task.config.generation_kwargs or {}
        longest = int(settings.get("max_gen_toks", _DEFAULT_TOKENS))
        if longest >= context:
            raise ReforgeError(
                f"task {name} asks for continuations of {longest} tokens, and a model sees "
                f"{context}: lower its max_gen_toks, or raise evaluate.context"
            )
