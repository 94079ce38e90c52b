"""What is said of a recipe that cannot be run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_core.config.corpus.sources import Source


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe: where, what value, and what is allowed."""

    path: str
    message: str
    value: Any = None


def source_problems(
    path: str, name: str, kind: str, known: Mapping[str, Source]
) -> Iterator[Problem]:
    """Whether ``name`` is one of the ``known`` sources, and of ``kind``."""
    if name not in known:
        yield Problem(path, f"is not one of ingest.sources: {', '.join(known)}", name)
    elif known[name].kind != kind:
        yield Problem(path, f"must name a source of kind {kind}", name)
