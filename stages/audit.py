"""``reforge audit``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megatron_core.config import STAGES
from megatron_core.errors import ConfigError, IntegrityError
from megatron_core.files import write_json
from megatron_core.identity import Environment, hash_json
from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.replay import replay as retrain
from stages.run import ARTIFACTS, StageRun, console, stage_run

if TYPE_CHECKING:
    from megatron_core.audit import Comparison

AUDITED = STAGES[: STAGES.index("audit")]


def audit(
    ours: Annotated[
        Path | None,
        typer.Argument(help="Checkpoint, folder of a run, project folder or record of roots."),
    ] = None,
    theirs: Annotated[Path | None, typer.Argument(help="What to compare it with.")] = None,
    params: Params = DEFAULT_PARAMS,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    record: Annotated[
        Path | None, typer.Option("--record", help="Write this project's roots to a file.")
    ] = None,
    replay: Annotated[
        int | None,
        typer.Option("--replay", metavar="STEP", help="Retrain pretrain from this checkpoint."),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option("--layout", metavar="data=N", help="Ranks of the replay; one by default."),
    ] = None,
) -> None:
    """Prove that the artifacts are what was recorded, or compare two of them.

    Without arguments: hashes every file and every checkpoint tensor against the manifests,
    checks that each stage was made from the inputs that are here, and retrains from the last
    checkpoint but one, on one rank, to show that the bits agree.

    With two arguments: compares them by root and names the first stage, step, tensor, grid shard
    and element that differ, as far as checkpoints and fingerprints tell, with the likely causes.
    Exit code 1 when they differ, or when that cannot be determined.

    With `--replay STEP`: retrains `pretrain` from its kept checkpoint of that step to the end, on
    any `--layout`, and compares every recorded step and the final root. Writes no artifact.
    """
    if layout is not None and replay is None:
        raise ConfigError(f"audit --layout {layout}: goes with --replay STEP")
    if ours is not None:
        if theirs is None:
            raise ConfigError(f"audit {ours}: name a second one to compare it with")
        from megatron_core.audit import compare

        _show(compare(ours, theirs, AUDITED))
    elif record is not None:
        from megatron_core.audit import project_roots

        roots = project_roots(ARTIFACTS, AUDITED)
        roots.write(record)
        console.print(f"{len(roots.roots)} roots written to {record}")
    elif replay is not None:
        with stage_run(
            "audit", params=params, overrides=overrides, dry_run=dry_run,
            inputs=["pretrain", "tokenize"], layout=layout or "data=1", trains="pretrain",
            keep=False,
        ) as run:  # fmt: skip
            found = retrain(run, replay)
            if found is not None:
                comparison, findings = found
                if comparison.same:
                    comparison = dataclasses.replace(comparison, verdict=findings["verdict"])
                _show(comparison)
    else:
        with stage_run(
            "audit", params=params, overrides=overrides, dry_run=dry_run, inputs=AUDITED
        ) as run:
            _verify(run)


def _show(comparison: Comparison) -> None:
    styles = {True: "bold green", False: "bold red", None: "bold yellow"}
    console.print(comparison.verdict, style=styles[comparison.same], markup=False, soft_wrap=True)
    for detail in comparison.details:
        console.print(f"  {detail}", markup=False, soft_wrap=True)
    for cause in comparison.causes:
        console.print(f"  likely cause: {cause}", markup=False, soft_wrap=True)
    if not comparison.same:
        raise typer.Exit(1)


def _verify(run: StageRun) -> None:
    from megatron_core.audit import audit_stage, chain_problems
    from megatron_core.progress import track

    found = {stage: audit_stage(run.input(stage)) for stage in track(AUDITED, "hashing artifacts")}
    problems = [problem for audited in found.values() for problem in audited.problems]
    problems += chain_problems({stage: audited.manifest for stage, audited in found.items()})
    if problems:
        raise IntegrityError("the audit failed:\n  " + "\n  ".join(problems))
    replay = _replay(run) if run.recipe.audit.replay else None
    stages = {
        stage: {
            "root": audited.manifest.root,
            "files": len(audited.manifest.files),
            "bytes": sum(entry.size for entry in audited.manifest.files.values()),
            "checkpoints": audited.checkpoints,
        }
        for stage, audited in found.items()
    }
    findings = {"stages": stages, "replay": replay}
    environment = Environment.current().model_dump(mode="json")
    write_json(run.output / "audit.json", {**findings, "environment": environment})
    run.content = {"roots": hash_json({stage: of["root"] for stage, of in stages.items()})}
    run.summary(
        {
            "artifacts verified": len(stages),
            "files hashed": sum(len(a.manifest.files) for a in found.values()),
            "checkpoints hashed": sum(len(a.checkpoints) for a in found.values()),
            "replay": "not asked for" if replay is None else replay["verdict"],
        }
    )


def _replay(run: StageRun) -> dict[str, Any] | None:
    """Retrain the last steps of ``pretrain``, on one rank; None when one checkpoint is kept."""
    found = retrain(run, None)
    if found is None:
        return None
    comparison, findings = found
    if not comparison.same:
        raise IntegrityError(
            f"retraining steps {findings['from_step'] + 1} to {findings['to_step']} gave other "
            f"bits: {comparison.verdict}"
            + "".join(f"\n  {detail}" for detail in comparison.details)
            + "".join(f"\n  likely cause: {cause}" for cause in comparison.causes)
        )
    return findings
