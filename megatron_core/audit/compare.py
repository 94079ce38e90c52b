"""Compare two checkpoints, or two pipelines, and name the first thing that differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron_core.audit.roots import RecordedRoots, project_roots
from megatron_core.checkpoint import Difference, first_difference, read_checkpoint
from megatron_core.errors import IntegrityError
from megatron_core.identity import likely_causes


@dataclass(frozen=True)
class Comparison:
    """The verdict in words, and what may have caused a difference."""

    same: bool
    verdict: str
    causes: list[str] = field(default_factory=list)


def compare(ours: Path, theirs: Path, stages: Sequence[str]) -> Comparison:
    """Compare two checkpoint folders, or two of: a project folder, a file of recorded roots.

    Raises:
        IntegrityError: one of them is neither, or they are not of one kind.
    """
    checkpoints = [(path / "checkpoint.json").exists() for path in (ours, theirs)]
    if all(checkpoints):
        return _compare_checkpoints(ours, theirs)
    if any(checkpoints):
        raise IntegrityError(
            f"cannot compare a checkpoint with a pipeline: {ours}, {theirs}; name two of a kind"
        )
    return _compare_pipelines(_roots(ours, stages), _roots(theirs, stages), stages)


def _roots(path: Path, stages: Sequence[str]) -> RecordedRoots:
    if path.is_dir():
        artifacts = path / "artifacts"
        return project_roots(artifacts if artifacts.is_dir() else path, stages)
    return RecordedRoots.read(path)


def _compare_pipelines(
    ours: RecordedRoots, theirs: RecordedRoots, stages: Sequence[str]
) -> Comparison:
    shared = [stage for stage in stages if stage in ours.roots and stage in theirs.roots]
    if not shared:
        raise IntegrityError("the two have no stage in common")
    for stage in shared:
        if ours.roots[stage] != theirs.roots[stage]:
            causes = likely_causes(ours.environment, theirs.environment)
            return Comparison(
                same=False,
                verdict=f"{stage} is the first stage that differs: {ours.roots[stage][:16]} and "
                f"{theirs.roots[stage][:16]}",
                causes=causes or ["the recipe or the sources: nothing recorded of the machines "
                                  "and libraries differs"],
            )  # fmt: skip
    return Comparison(
        same=True,
        verdict=f"the same model, bit for bit: {len(shared)} stages from {shared[0]} to "
        f"{shared[-1]} have equal roots",
    )


def _compare_checkpoints(ours: Path, theirs: Path) -> Comparison:
    a, b = read_checkpoint(ours), read_checkpoint(theirs)
    if a.root == b.root:
        return Comparison(
            same=True, verdict=f"the same bits: both have root {a.root[:16]} at step {a.step}"
        )
    found = first_difference(ours, theirs)
    if isinstance(found, Difference):
        sentence = (
            f"{found.tensors} tensors differ; the first in name order is {found.tensor}, in "
            f"{found.elements} elements, first at {list(found.index)}: {found.ours!r} and "
            f"{found.theirs!r}, {found.ulps} ULPs apart"
        )
    else:
        sentence = found or "only their steps differ"
    if a.step != b.step:
        sentence = f"they are of steps {a.step} and {b.step}; {sentence}"
    return Comparison(
        same=False, verdict=sentence, causes=likely_causes(a.environment, b.environment)
    )
