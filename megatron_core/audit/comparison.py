"""The verdict of a comparison, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_core.checkpoint import Checkpoint, Difference
from megatron_core.identity import likely_causes


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        same: Whether the two are equal bit for bit; None when that could not be determined.
        verdict: One sentence.
        details: What else was seen, and what could not be.
        causes: What may have caused a difference, most likely first.
    """

    same: bool | None
    verdict: str
    details: list[str] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)


def describe_difference(found: Difference) -> str:
    """Tensor, grid shard, element and distance of the first difference of two checkpoints."""
    return (
        f"{count(found.tensors, 'tensor')} differ{'s' if found.tensors == 1 else ''}; the first "
        f"in name order is {found.tensor}, in {count(found.elements, 'element')}, first in grid "
        f"shard {found.shard} at {list(found.element)}: {found.ours!r} and {found.theirs!r}, "
        f"{count(found.ulps, 'ULP')} apart"
    )


def describe_layouts(ours: Checkpoint, theirs: Checkpoint) -> str:
    """The ranks that wrote two checkpoints."""
    here, there = (",".join(f"{k}={v}" for k, v in c.layout.items()) for c in (ours, theirs))
    if here == there:
        return f"both ran on the layout {here}"
    return f"they ran on the layouts {here} and {there}, which should change no bit"


def causes_between(
    ours: Checkpoint, theirs: Checkpoint, recipes: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """What the records of two checkpoints, and of the ``recipes`` of both, do not share."""
    causes = recipe_differences({"model": ours.model}, {"model": theirs.model})
    if recipes and all(recipes):
        causes += recipe_differences(*recipes)
    if ours.run != theirs.run and not causes:
        causes = ["the recipe or the inputs: the two runs have different identities"]
    causes += likely_causes(ours.environment, theirs.environment)
    return causes or [
        "nothing recorded of the recipe, the machines and the libraries differs: arithmetic that "
        "does not repeat, or a fault of the hardware"
    ]


def recipe_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Every value that differs between two nested mappings, with its dotted path."""
    a, b = dict(_flat(ours)), dict(_flat(theirs))
    return [
        f"{path}: {_shown(a, path)} here, {_shown(b, path)} there"
        for path in sorted(a.keys() | b.keys())
        if a.get(path, ...) != b.get(path, ...)
    ]


def count(number: int, noun: str) -> str:
    """A number with its noun in singular or plural."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        inner = ((f"{path}.{key}" if path else str(key), item) for key, item in value.items())
        return [leaf for name, item in inner for leaf in _flat(item, name)]
    return [(path, value)]


def _shown(values: Mapping[str, Any], path: str) -> str:
    return repr(values[path]) if path in values else "absent"
