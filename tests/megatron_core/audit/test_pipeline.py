"""The audit finds what was changed after the manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from megatron_core.audit import audit_stage, chain_problems
from megatron_core.errors import IntegrityError
from megatron_core.files import write_json
from megatron_core.identity import Environment, Manifest, RunRecord, manifest_path
from tests.models import random_decoder, small_config, write_checkpoint

RECORD = RunRecord(
    command="reforge x", started="2020-01-01T00:00:00+00:00", seconds=1.0, layout={"data": 1},
    environment=Environment.current(),
)  # fmt: skip


def describe(
    artifact: Path, inputs: dict[str, str] | None = None, content: dict[str, str] | None = None
) -> Manifest:
    manifest = Manifest.of(
        artifact, stage=artifact.name, inputs=inputs or {}, recipe={}, record=RECORD,
        content=content,
    )  # fmt: skip
    manifest.write(manifest_path(artifact))
    return manifest


def plain_stage(folder: Path, name: str, inputs: dict[str, str] | None = None) -> Manifest:
    artifact = folder / name
    artifact.mkdir()
    (artifact / "text.jsonl").write_text(f"of {name}")
    (artifact / "deep").mkdir()
    (artifact / "deep" / "payload.bin").write_bytes(bytes(range(256)) * 40)
    return describe(artifact, inputs)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """An artifact that is its checkpoint's tensors."""
    artifact = tmp_path / "pretrain"
    checkpoints = artifact / "checkpoints"
    root = write_checkpoint(checkpoints, random_decoder(small_config()))
    describe(artifact, content={"model": root})
    return artifact


def change_byte(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_what_is_as_recorded_has_no_problems(tmp_path: Path, trained: Path) -> None:
    manifest = plain_stage(tmp_path, "ingest")
    audited = audit_stage(tmp_path / "ingest")
    assert (audited.manifest, audited.problems, audited.checkpoints) == (manifest, [], {})
    audited = audit_stage(trained)
    assert audited.problems == []
    assert set(audited.checkpoints) == {"checkpoints/step-00000001"}
    assert audited.manifest.content == {"model": audited.checkpoints["checkpoints/step-00000001"]}


@pytest.mark.parametrize("at", [0, 5000, -1])
def test_an_altered_byte_is_found(at: int, tmp_path: Path) -> None:
    plain_stage(tmp_path, "ingest")
    file = tmp_path / "ingest" / "deep" / "payload.bin"
    change_byte(file, at)
    assert audit_stage(tmp_path / "ingest").problems == [
        f"{file} was altered: its hash is not the recorded one"
    ]


def test_an_altered_manifest_is_found(tmp_path: Path) -> None:
    plain_stage(tmp_path, "ingest")
    path = manifest_path(tmp_path / "ingest")
    manifest = json.loads(path.read_text())
    write_json(path, {**manifest, "root": "0" * 64})
    assert audit_stage(tmp_path / "ingest").problems == [
        f"{path}: its root is not that of its content"
    ]
    path.unlink()
    with pytest.raises(IntegrityError, match="does not exist: run the stage"):
        audit_stage(tmp_path / "ingest")


def test_an_altered_tensor_is_found(trained: Path) -> None:
    (file,) = trained.rglob("*.distcp")
    change_byte(file, file.stat().st_size // 2)
    folder = trained / "checkpoints" / "step-00000001"
    assert audit_stage(trained).problems == [
        f"{file} was altered: its hash is not the recorded one",
        f"{file} was altered: delete {folder} and resume from an earlier checkpoint",
    ]


def test_another_model_under_the_same_manifest_is_found(trained: Path) -> None:
    """Every file is described anew: the recorded root of the tensors alone gives it away."""
    root = json.loads(manifest_path(trained).read_text())["content"]["model"]
    shutil.rmtree(trained / "checkpoints")
    write_checkpoint(trained / "checkpoints", random_decoder(small_config(), seed=2))
    describe(trained, content={"model": root})
    assert audit_stage(trained).problems == [
        f"{trained}: no checkpoint has the root recorded for model"
    ]


def test_a_broken_chain_is_found(tmp_path: Path) -> None:
    ingest = plain_stage(tmp_path, "ingest")
    curate = plain_stage(tmp_path, "curate", {"ingest": ingest.root})
    dedup = plain_stage(tmp_path, "dedup", {"curate": "f" * 64, "elsewhere": "e" * 64})
    manifests = {"ingest": ingest, "curate": curate, "dedup": dedup}
    assert chain_problems(manifests) == [
        f"dedup was made from another curate ({'f' * 16}) than the one here "
        f"({curate.root[:16]}): run `reforge dedup` again"
    ]
    assert chain_problems({"ingest": ingest, "curate": curate}) == []
