"""Verify the artifacts of a pipeline against their manifests, and the manifests against another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from megatron_core.checkpoint import find_checkpoints, verify_checkpoint
from megatron_core.errors import IntegrityError
from megatron_core.identity import (
    Manifest,
    manifest_path,
    merkle_root,
    read_manifest,
    verify_files,
)


@dataclass(frozen=True)
class StageAudit:
    """What the audit found of one artifact."""

    manifest: Manifest
    checkpoints: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def audit_stage(artifact: Path) -> StageAudit:
    """Hash every file and every checkpoint tensor of ``artifact`` and recompute its root.

    Raises:
        IntegrityError: the artifact has no readable manifest.
    """
    manifest = read_manifest(manifest_path(artifact))
    problems = verify_files(artifact, manifest)
    leaves = manifest.content or {name: e.sha256 for name, e in manifest.files.items()}
    if merkle_root(leaves) != manifest.root:
        problems.append(f"{manifest_path(artifact)}: its root is not that of its content")
    checkpoints: dict[str, str] = {}
    for folder in sorted(artifact.rglob("checkpoints")):
        for path in find_checkpoints(folder):
            try:
                checkpoints[path.relative_to(artifact).as_posix()] = verify_checkpoint(path).root
            except IntegrityError as error:
                problems.append(str(error))
    for name, root in (manifest.content or {}).items():
        if checkpoints and root not in checkpoints.values():
            problems.append(f"{artifact}: no checkpoint has the root recorded for {name}")
    return StageAudit(manifest, checkpoints, problems)


def chain_problems(manifests: Mapping[str, Manifest]) -> list[str]:
    """Where a stage was made from something else than what its input is now."""
    return [
        f"{stage} was made from another {needed} ({root[:16]}) than the one here "
        f"({manifests[needed].root[:16]}): run `reforge {stage}` again"
        for stage, manifest in manifests.items()
        for needed, root in manifest.inputs.items()
        if needed in manifests and manifests[needed].root != root
    ]
