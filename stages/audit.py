"""``reforge audit``."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megatron_core.config import STAGES
from megatron_core.errors import ConfigError, IntegrityError
from megatron_core.files import write_json
from megatron_core.identity import Environment, hash_json
from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.run import ARTIFACTS, StageRun, console, stage_run

if TYPE_CHECKING:
    from megatron_core.config import PretrainConfig

AUDITED = STAGES[: STAGES.index("audit")]


def audit(
    ours: Annotated[
        Path | None, typer.Argument(help="Checkpoint, project folder or record of roots.")
    ] = None,
    theirs: Annotated[Path | None, typer.Argument(help="What to compare it with.")] = None,
    params: Params = DEFAULT_PARAMS,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    record: Annotated[
        Path | None, typer.Option("--record", help="Write this project's roots to a file.")
    ] = None,
) -> None:
    """Prove that the artifacts are what was recorded, or compare two of them.

    Without arguments: hashes every file and every checkpoint tensor against the manifests,
    checks that each stage was made from the inputs that are here, and retrains from the last
    checkpoint but one, on one rank, to show that the bits agree.

    With two arguments: compares them by root and names the first stage, or the first tensor,
    that differs, with the likely causes. Exit code 1 when they differ.
    """
    if ours is not None:
        if theirs is None:
            raise ConfigError(f"audit {ours}: name a second one to compare it with")
        _compare(ours, theirs)
    elif record is not None:
        from megatron_core.audit import project_roots

        roots = project_roots(ARTIFACTS, AUDITED)
        roots.write(record)
        console.print(f"{len(roots.roots)} roots written to {record}")
    else:
        with stage_run(
            "audit", params=params, overrides=overrides, dry_run=dry_run, inputs=AUDITED
        ) as run:
            _verify(run)


def _compare(ours: Path, theirs: Path) -> None:
    from megatron_core.audit import compare

    comparison = compare(ours, theirs, AUDITED)
    style = "bold green" if comparison.same else "bold red"
    console.print(comparison.verdict, style=style, soft_wrap=True)
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
    """Retrain the last steps of ``pretrain`` on one rank from the checkpoint before them."""
    from megatron_core.audit import compare
    from megatron_core.checkpoint import find_checkpoints, read_checkpoint

    kept = find_checkpoints(run.input("pretrain") / "checkpoints")
    if len(kept) < 2:
        return None
    start, recorded = (read_checkpoint(path) for path in kept[-2:])
    with tempfile.TemporaryDirectory() as folder:
        config = run.recipe.pretrain.model_copy(update={"trackers": []})
        path = _retrain(config, run, kept[-2], Path(folder))
        comparison = compare(path, kept[-1], AUDITED)
        if not comparison.same:
            raise IntegrityError(
                f"retraining steps {start.step + 1} to {recorded.step} gave other bits: "
                f"{comparison.verdict}"
                + "".join(f"\n  likely cause: {cause}" for cause in comparison.causes)
            )
        root = read_checkpoint(path).root
    return {
        "from_step": start.step,
        "to_step": recorded.step,
        "recorded_root": recorded.root,
        "root": root,
        "same": True,
        "recorded_layout": recorded.layout,
        "layout": {"data": 1},
        "verdict": f"steps {start.step + 1} to {recorded.step} agree bit for bit",
    }


def _retrain(config: PretrainConfig, run: StageRun, start: Path, folder: Path) -> Path:
    """Train from checkpoint ``start`` to the last step in ``folder``; the final checkpoint."""
    from megatron_core.parallel.mesh import open_mesh
    from megatron_core.trainer.assemble import pretraining

    inputs = {"tokenize": run.input_roots["tokenize"]}
    with open_mesh(run.layout, config.device, config.threads) as mesh:
        trainer = pretraining(config, run.input("tokenize"), inputs, folder, mesh)
        trainer.run.checkpoints.mkdir(parents=True)
        shutil.copytree(start, trainer.run.checkpoints / start.name)
        path, _ = trainer.train()
    return path
