"""Compare two training runs: the roots of their checkpoints, then the log of every step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_core.audit.comparison import (
    Comparison,
    causes_between,
    count,
    describe_difference,
    describe_layouts,
)
from megatron_core.checkpoint import (
    Checkpoint,
    Difference,
    checkpoint_path,
    find_checkpoints,
    first_difference,
    read_checkpoint,
)
from megatron_core.errors import IntegrityError
from megatron_core.identity import manifest_path, read_manifest
from megatron_core.identity.fingerprints import (
    Divergence,
    first_divergence,
    has_fingerprints,
    read_fingerprints,
)


def is_run(path: Path) -> bool:
    """Whether ``path`` is a folder of ``runs/``, or of an artifact that holds a finished run."""
    return (path / "checkpoints").is_dir() or has_fingerprints(path)


@dataclass(frozen=True)
class _Run:
    """The checkpoints that a run keeps, by step."""

    folder: Path
    kept: dict[int, Checkpoint]

    @classmethod
    def read(cls, folder: Path) -> _Run:
        paths = find_checkpoints(folder / "checkpoints")
        return cls(folder, {c.step: c for c in map(read_checkpoint, paths)})

    def checkpoint(self, step: int) -> Path:
        return checkpoint_path(self.folder / "checkpoints", step)

    def recipe(self) -> dict[str, Any]:
        """From the manifest of the artifact that holds the run, if it lies in one."""
        for folder in (self.folder.absolute(), self.folder.absolute().parent):
            if manifest_path(folder).exists():
                manifest = read_manifest(manifest_path(folder))
                return {manifest.stage: manifest.recipe, "inputs": manifest.inputs}
        return {}


@dataclass(frozen=True)
class _Logs:
    """What two logs of fingerprints say.

    ``steps`` were compared, up to ``last``; ``missing`` says why none could be.
    """

    divergence: Divergence | None = None
    steps: int = 0
    last: int = 0
    missing: str | None = None


def compare_runs(ours: Path, theirs: Path) -> Comparison:
    """Whether two runs have the same bits, or the first step and tensor in which they part.

    Raises:
        IntegrityError: a checkpoint or a log is damaged, by name, or one of them keeps nothing.
    """
    a, b = _Run.read(ours), _Run.read(theirs)
    logs = _compare_logs(ours, theirs)
    common = sorted(a.kept.keys() & b.kept.keys())
    differing = [step for step in common if a.kept[step].root != b.kept[step].root]
    if differing:
        return _differing(a, b, differing[0], common, logs)
    if logs.divergence is not None:
        return _logs_alone(a, b, common, logs.divergence)
    if common:
        last = common[-1]
        for run in (a, b):  # nothing was loaded, so nothing else would notice altered files
            read_checkpoint(run.checkpoint(last), verify=True)
        return Comparison(
            same=True,
            verdict=f"the same bits: both have root {a.kept[last].root[:16]} at step {last}",
            details=[_logs_in_words(logs), *_further(a, b, last)],
        )
    kept = " and ".join(_steps(run) for run in (a, b))
    return Comparison(
        same=None,
        verdict=f"not determined: they keep no checkpoint of an equal step ({kept})",
        details=[_logs_in_words(logs)],
    )


def _differing(a: _Run, b: _Run, step: int, common: list[int], logs: _Logs) -> Comparison:
    """Two runs whose checkpoints of ``step`` are the first that differ."""
    earlier = [kept for kept in common if kept < step]
    since = f"after step {earlier[-1]}, whose roots are equal, and" if earlier else "somewhere"
    details = []
    if logs.divergence is not None and logs.divergence.step <= step + 1:
        verdict = describe_divergence(logs.divergence)
    else:
        verdict = f"they part {since} by step {step}, whose roots differ"
        details.append(_unlogged(logs, step))
    found = first_difference(a.checkpoint(step), b.checkpoint(step))
    sentence = describe_difference(found) if isinstance(found, Difference) else found
    details.append(f"checkpoints of step {step}: {sentence or 'only their roots differ'}")
    details.append(describe_layouts(a.kept[step], b.kept[step]))
    causes = causes_between(a.kept[step], b.kept[step], (a.recipe(), b.recipe()))
    return Comparison(same=False, verdict=verdict, details=details, causes=causes)


def _unlogged(logs: _Logs, step: int) -> str:
    """Why the logs do not show where checkpoints of ``step`` begin to differ."""
    if logs.missing:
        return f"the step and the tensor could not be determined: {logs.missing}"
    if logs.divergence is not None:
        return f"weights and gradients agree for longer: {describe_divergence(logs.divergence)}"
    if logs.last > step:
        return f"{_logs_in_words(logs)}: neither weights nor gradients show it"
    where = f"in the update of step {step}" if logs.last == step else f"after step {logs.last}"
    return f"{_logs_in_words(logs)}: it arose {where}, which they do not reach"


def _logs_alone(a: _Run, b: _Run, common: list[int], found: Divergence) -> Comparison:
    """Two runs whose logs differ where no two checkpoints do."""
    details = []
    if common and found.step <= common[-1]:
        details.append(
            f"yet their checkpoints of step {common[-1]} are equal: one log is not of the run that "
            "wrote them"
        )
    elif common:
        details.append(f"their checkpoints of step {common[-1]}, the last in common, are equal")
    else:
        details.append("tensors were not compared: they keep no checkpoint of an equal step")
    causes = []
    if a.kept and b.kept:
        ours, theirs = (run.kept[max(run.kept)] for run in (a, b))
        details.append(describe_layouts(ours, theirs))
        causes = causes_between(ours, theirs, (a.recipe(), b.recipe()))
    return Comparison(
        same=False, verdict=describe_divergence(found), details=details, causes=causes
    )


def describe_divergence(found: Divergence) -> str:
    """The first step and tensor that differ, and what of the step it was."""
    name, _, shard = found.name.rpartition("/")
    more = f" and {count(found.shards - 1, 'other grid shard')}" if found.shards > 1 else ""
    where = f"{name}, grid shard {shard}{more}"
    if found.kind == "gradient":
        return (
            f"they part in step {found.step}: from equal weights, the gradient of {where} differs"
        )
    if found.agreed is None:
        return (
            f"they part before step {found.step}, the first that both recorded: the weights of "
            f"{where} differ"
        )
    update = (
        f"step {found.agreed}"
        if found.agreed == found.step - 1
        else f"a step from {found.agreed} to {found.step - 1}, which were not all recorded"
    )
    return (
        f"they part in the update of {update}: the weights of {where} differ before step "
        f"{found.step}"
    )


def _compare_logs(ours: Path, theirs: Path) -> _Logs:
    without = [folder for folder in (ours, theirs) if not has_fingerprints(folder)]
    if without:
        verb = "have" if len(without) > 1 else "has"
        return _Logs(missing=f"{' and '.join(map(str, without))} {verb} no fingerprints")
    a, b = read_fingerprints(ours), read_fingerprints(theirs)
    found = first_divergence(a, b)
    if isinstance(found, str):
        return _Logs(missing=found)
    shared = sorted(set(a.steps.tolist()) & set(b.steps.tolist()))
    return replace(_Logs(found), steps=len(shared), last=shared[-1])


def _logs_in_words(logs: _Logs) -> str:
    if logs.missing:
        return f"gradients of single steps were not compared: {logs.missing}"
    return f"the fingerprints of {count(logs.steps, 'step')} agree, up to step {logs.last}"


def _further(a: _Run, b: _Run, last: int) -> list[str]:
    """Checkpoints of one run that the other has not come to."""
    return [
        f"{run.folder} goes on to step {max(run.kept)}, which was not compared"
        for run in (a, b)
        if max(run.kept) > last
    ]


def _steps(run: _Run) -> str:
    kept = ", ".join(map(str, sorted(run.kept)))
    return f"{run.folder}: {kept or 'none'}"


def runs_within(artifact: Path) -> list[Path]:
    """The runs of an artifact: itself, or folders in it, what all others may begin with first."""
    if is_run(artifact):
        return [artifact]
    found = [folder for folder in artifact.iterdir() if folder.is_dir() and is_run(folder)]
    return sorted(found, key=lambda folder: (folder.name != "continued", folder.name))


def start_of_replay(run: Path, step: int | None) -> Path | None:
    """The checkpoint of ``run`` to retrain from.

    Args:
        run: Folder of a run.
        step: That of the checkpoint; None takes the last but one, if there are two.

    Raises:
        IntegrityError: it is not kept, or none after it is; the message lists those that are.
    """
    steps = sorted(_Run.read(run).kept)
    if step is None:
        return checkpoint_path(run / "checkpoints", steps[-2]) if len(steps) > 1 else None
    if step not in steps[:-1]:
        listed = ", ".join(map(str, steps)) or "none"
        raise IntegrityError(
            f"cannot retrain from step {step}: {run / 'checkpoints'} must keep it and a later one, "
            f"and keeps {listed}; checkpoints.keep_every keeps more"
        )
    return checkpoint_path(run / "checkpoints", step)
