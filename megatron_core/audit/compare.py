"""Compare two checkpoints, runs or pipelines, and name the first thing that differs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_core.audit.comparison import (
    Comparison,
    causes_between,
    describe_difference,
    describe_layouts,
    recipe_differences,
)
from megatron_core.audit.roots import RecordedRoots, project_roots
from megatron_core.audit.runs import compare_runs, is_run, runs_within
from megatron_core.checkpoint import Difference, first_difference, read_checkpoint
from megatron_core.errors import IntegrityError
from megatron_core.identity import likely_causes, manifest_path, read_manifest


def compare(ours: Path, theirs: Path, stages: Sequence[str]) -> Comparison:
    """Compare two checkpoint folders, two folders of runs, or two pipelines.

    A pipeline is a project folder, the folder of its artifacts, or a file of recorded roots.

    Raises:
        IntegrityError: one of them is none of these, or they are not of one kind.
    """
    kinds = [_kind(path) for path in (ours, theirs)]
    if kinds[0] != kinds[1]:
        raise IntegrityError(
            f"cannot compare a {kinds[0]} with a {kinds[1]}: {ours}, {theirs}; name two of a kind"
        )
    if kinds[0] == "checkpoint":
        return _compare_checkpoints(ours, theirs)
    if kinds[0] == "run":
        return compare_runs(ours, theirs)
    return _compare_pipelines(ours, theirs, stages)


def _kind(path: Path) -> str:
    if (path / "checkpoint.json").exists():
        return "checkpoint"
    return "run" if is_run(path) else "pipeline"


def _compare_pipelines(ours: Path, theirs: Path, stages: Sequence[str]) -> Comparison:
    a, b = _roots(ours, stages), _roots(theirs, stages)
    shared = [stage for stage in stages if stage in a.roots and stage in b.roots]
    if not shared:
        raise IntegrityError("the two have no stage in common")
    for stage in shared:
        if a.roots[stage] != b.roots[stage]:
            found = _within_stage(ours, theirs, stage)
            recipes = [_recipe(path, stage) for path in (ours, theirs)]
            causes = found.causes or [
                *(recipe_differences(*recipes) if all(recipes) else []),
                *likely_causes(a.environment, b.environment),
            ]
            return Comparison(
                same=False,
                verdict=f"{stage} is the first stage that differs: {a.roots[stage][:16]} and "
                f"{b.roots[stage][:16]}",
                details=[found.verdict, *found.details] if found.verdict else [],
                causes=causes or ["the recipe or the sources: nothing recorded of the machines "
                                  "and libraries differs"],
            )  # fmt: skip
    return Comparison(
        same=True,
        verdict=f"the same model, bit for bit: {len(shared)} stages from {shared[0]} to "
        f"{shared[-1]} have equal roots",
    )


def _within_stage(ours: Path, theirs: Path, stage: str) -> Comparison:
    """The first run of a training stage that differs; nothing if it trained none."""
    folders = [_artifacts(path) / stage for path in (ours, theirs)]
    if not all(folder.is_dir() for folder in folders):
        return Comparison(same=None, verdict="")
    for a, b in zip(*map(runs_within, folders), strict=False):
        found = compare_runs(a, b)
        if not found.same:
            return found
    return Comparison(same=None, verdict="")


def _recipe(project: Path, stage: str) -> dict[str, Any]:
    """The recipe that an artifact records; recorded roots have none."""
    path = manifest_path(_artifacts(project) / stage)
    return {stage: read_manifest(path).recipe} if path.exists() else {}


def _roots(path: Path, stages: Sequence[str]) -> RecordedRoots:
    return project_roots(_artifacts(path), stages) if path.is_dir() else RecordedRoots.read(path)


def _artifacts(project: Path) -> Path:
    return project / "artifacts" if (project / "artifacts").is_dir() else project


def _compare_checkpoints(ours: Path, theirs: Path) -> Comparison:
    a, b = (read_checkpoint(path, verify=True) for path in (ours, theirs))
    if a.root == b.root:
        return Comparison(
            same=True, verdict=f"the same bits: both have root {a.root[:16]} at step {a.step}"
        )
    found = first_difference(ours, theirs)
    sentence = describe_difference(found) if isinstance(found, Difference) else found
    sentence = sentence or "only their steps differ"
    if a.step != b.step:
        sentence = f"they are of steps {a.step} and {b.step}; {sentence}"
    return Comparison(
        same=False, verdict=sentence, details=[describe_layouts(a, b)], causes=causes_between(a, b)
    )
