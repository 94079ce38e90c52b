"""What can be compared between two machines, and what the audit found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_core.identity import Environment
from megatron_core.reporting.project import Project
from megatron_core.reporting.wording import listing, plural


@dataclass(frozen=True)
class Verdict:
    """The audit in plain words; ``good`` when everything it looked at agrees."""

    good: bool
    sentences: list[str]


@dataclass(frozen=True)
class Proof:
    """The section on proof.

    Attributes:
        root: One root over the pipeline: equal if and only if those of all stages are.
        roots: Root of each stage.
        checkpoints: Root of each kept checkpoint by stage and path.
    """

    root: str
    roots: dict[str, str]
    checkpoints: dict[str, str]
    verdict: Verdict


@dataclass(frozen=True)
class Circumstances:
    """Where and how long the stages ran: shown on the page, no part of its root.

    Attributes:
        seconds: Of each stage.
        layouts: Ranks of the training stages, in words.
        environment: Of the training.
        elsewhere: Stages that ran in another environment, and what differs there.
    """

    seconds: dict[str, float]
    layouts: dict[str, str]
    environment: Environment
    elsewhere: list[tuple[list[str], list[str]]]


def read_proof(project: Project) -> Proof:
    """Read the section from the manifests and the stage audit."""
    roots = {stage: manifest.root for stage, manifest in project.manifests.items()}
    audit = project.read("audit", "audit.json")
    return Proof(
        root=roots.pop("audit"),
        roots=roots,
        checkpoints={
            f"{stage}/{path}": root
            for stage, found in audit.get("stages", {}).items()
            for path, root in found.get("checkpoints", {}).items()
        },
        verdict=read_verdict(audit, roots),
    )


def read_verdict(audit: Mapping[str, Any], roots: Mapping[str, str]) -> Verdict:
    """What the audit found of the artifacts whose ``roots`` are on the page."""
    stages, replay = audit.get("stages", {}), audit.get("replay")
    problems = [
        f"{stage}: {problem}"
        for stage, found in stages.items()
        for problem in found.get("problems", [])
    ]
    unseen = [stage for stage in roots if stage not in stages]
    stale = [stage for stage in roots if stage in stages and stages[stage]["root"] != roots[stage]]
    sentences = []
    if problems:
        sentences.append(
            f"The audit found {plural(len(problems), 'problem')}: {'; '.join(problems)}."
        )
    if unseen:
        sentences.append(f"The audit did not look at {listing(unseen)}.")
    if stale:
        sentences.append(
            f"The audit saw another {listing(stale)} than this page: run `reforge audit` again."
        )
    if not sentences:
        files = sum(found.get("files", 0) for found in stages.values())
        sentences.append(
            f"All {len(stages)} artifacts are as recorded: every one of their {files:,} files was "
            "hashed again."
        )
    good = not (problems or unseen or stale)
    if replay is None:
        sentences.append("No part of the training was replayed.")
    elif replay["same"]:
        sentences.append(
            f"Retraining from step {replay['from_step']:,} to {replay['to_step']:,}"
            f"{_agreement(replay)}."
        )
    else:
        good = False
        sentences.append(
            f"Retraining from step {replay['from_step']:,} to {replay['to_step']:,} gave other "
            f"bits: root {replay['root'][:12]} where {replay['recorded_root'][:12]} was recorded."
        )
    return Verdict(good, sentences)


def read_circumstances(project: Project) -> Circumstances:
    """Read times, layouts and environments from the manifests' records."""
    records = {stage: manifest.record for stage, manifest in project.manifests.items()}
    home = records["pretrain"].environment
    elsewhere: dict[tuple[str, ...], list[str]] = {}
    for stage, record in records.items():
        if found := _differences(record.environment, home):
            elsewhere.setdefault(tuple(found), []).append(stage)
    return Circumstances(
        seconds={stage: record.seconds for stage, record in records.items()},
        layouts={stage: in_words(records[stage].layout) for stage in ("pretrain", "finetune")},
        environment=home,
        elsewhere=[(stages, list(found)) for found, stages in elsewhere.items()],
    )


def _differences(there: Environment, home: Environment) -> list[str]:
    """What ``there`` is that ``home`` is not; the GPU is known only where torch was loaded."""
    fields = ("cpu", "instructions", "python", "system")
    found = [
        f"{name} {getattr(there, name)}"
        for name in fields
        if getattr(there, name) != getattr(home, name)
    ]
    return found + [
        f"{library} {version}"
        for library, version in there.libraries.items()
        if home.libraries.get(library) != version
    ]


def in_words(layout: Mapping[str, int | str]) -> str:
    """As "4 data-parallel × 2 tensor-parallel ranks", or "one rank" when all degrees are 1."""
    degrees = [
        f"{degree} {name}-parallel"
        for name, degree in layout.items()
        if name in {"data", "tensor", "context", "pipeline"} and degree != 1
    ]
    return f"{' × '.join(degrees)} ranks" if degrees else "one rank"


def _agreement(replay: Mapping[str, Any]) -> str:
    if "layout" not in replay or "recorded_layout" not in replay:
        return " gave the same bits"
    here, there = in_words(replay["layout"]), in_words(replay["recorded_layout"])
    return f" on {here} gave the same bits as the recorded run on {there}"
