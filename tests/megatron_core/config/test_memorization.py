"""Canaries that could not be learned or would not be measured."""

from __future__ import annotations

from typing import Any

import pytest

from megatron_core.config import Recipe
from megatron_core.config.recipe import cross_section_problems

MODEL = {
    "vocabulary": 512, "positions": 128, "layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2,
    "ffn": 48,
}  # fmt: skip


def problems(**changes: Any) -> dict[str, str]:
    """The message of each problem that canaries and their measure have, by its path."""
    raw: dict[str, Any] = {
        "ingest": {
            "sources": {
                "notes": {"kind": "jsonl", "path": "x"}, "letters": {"kind": "jsonl", "path": "y"}
            }
        },
        "tokenizer": {"vocabulary": 512},
        "tokenize": {"canaries": {"source": "notes"}},
        "pretrain": {"model": MODEL, "sequence_length": 128, "sources": {"notes": 1.0}},
        "evaluate": {"memorization": {}},
    }  # fmt: skip
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = raw
        for key in parents:
            node = node[key]
        node[last] = value
    found = cross_section_problems(Recipe.model_validate(raw))
    return {
        one.path: one.message
        for one in found
        if one.path.startswith(("tokenize.", "evaluate.memorization"))
    }


def test_the_recipe_they_start_from_has_none() -> None:
    assert problems() == {}
    assert problems(pretrain__sources={}) == {}
    assert problems(tokenize__canaries=None) == {}


@pytest.mark.parametrize(
    ("change", "value", "where", "message"),
    [
        (
            "tokenize__canaries__source", "note", "tokenize.canaries.source",
            "is not one of ingest.sources: notes, letters",
        ),
        (
            "tokenize__canaries__source", "letters", "tokenize.canaries.source",
            "must be one of pretrain.sources",
        ),
        ("evaluate__memorization", None, "tokenize.canaries", "unless evaluate.memorization"),
        (
            "pretrain__model", {**MODEL, "kind": "encoder"}, "evaluate.memorization",
            "must be null for an encoder",
        ),
        (
            "evaluate__memorization__prefix", 78, "evaluate.memorization.prefix",
            "128 tokens: 1 + 78 + 50",
        ),
    ],
)  # fmt: skip
def test_what_no_section_can_see_alone(change: str, value: Any, where: str, message: str) -> None:
    found = problems(**{change: value})
    assert list(found) == [where]
    assert message in found[where]


def test_a_beginning_may_just_fit() -> None:
    assert problems(evaluate__memorization__prefix=77) == {}
