"""The files that a recipe names."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from megatron_core.config.corpus import ExistingTokenizer
from megatron_core.config.corpus.sources import Files
from megatron_core.config.finetune import ExampleFiles
from megatron_core.config.recipe import Recipe

_GLOB = frozenset("*?[")


def named_files(recipe: Recipe) -> dict[str, list[str]]:
    """Files and folders that the recipe's user brings, by the stage that reads them.

    A glob is named by the folder above it. What a package carries or a hub has is not among them.
    """
    found = {
        "ingest": [s.path for s in recipe.ingest.sources.values() if isinstance(s, Files)],
        "decontaminate": [
            s.path for s in recipe.decontaminate.against.values() if isinstance(s, Files)
        ],
        "tokenizer": (
            [recipe.tokenizer.path] if isinstance(recipe.tokenizer, ExistingTokenizer) else []
        ),
        "pretrain": [recipe.pretrain.start] if recipe.pretrain.start is not None else [],
        "finetune": list(_examples(recipe)),
    }
    return {stage: list(dict.fromkeys(map(_above_glob, paths))) for stage, paths in found.items()}


def _examples(recipe: Recipe) -> Iterator[str]:
    for task in recipe.finetune.tasks.values():
        if isinstance(task.examples, ExampleFiles):
            yield task.examples.train
            if task.examples.test is not None:
                yield task.examples.test


def _above_glob(path: str) -> str:
    """The path up to its first part with a wildcard."""
    return Path(*takewhile(lambda part: not _GLOB & set(part), Path(path).parts)).as_posix()
