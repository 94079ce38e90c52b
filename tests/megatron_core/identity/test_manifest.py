"""The manifest beside an artifact."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megatron_core.errors import IntegrityError
from megatron_core.identity import (
    Environment,
    Manifest,
    RunRecord,
    hash_bytes,
    manifest_path,
    merkle_root,
    read_manifest,
    verify_files,
)

FILES = {"a.txt": b"alpha", "deep/b.bin": bytes(1000), "deep/empty": b""}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "stage"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def describe(artifact: Path, **changes: object) -> Manifest:
    record = RunRecord(
        command="reforge stage", started="2020-01-01T00:00:00+00:00", seconds=1.5,
        layout={"data": 2}, environment=Environment.current(),
    ).model_copy(update=changes.pop("record", {}))  # type: ignore[arg-type]  # fmt: skip
    settings: dict[str, object] = {"inputs": {"before": "00"}, "recipe": {"steps": 3}}
    return Manifest.of(artifact, stage="stage", record=record, **(settings | changes))  # type: ignore[arg-type]


def test_it_comes_back_as_it_was_written(artifact: Path) -> None:
    manifest = describe(artifact)
    path = manifest_path(artifact)
    assert path == artifact.parent / "stage.manifest.json"
    manifest.write(path)
    assert read_manifest(path) == manifest
    assert {name: (e.size, e.sha256) for name, e in manifest.files.items()} == {
        name: (len(content), hash_bytes(content)) for name, content in FILES.items()
    }
    assert verify_files(artifact, manifest) == []


def test_the_root_is_of_the_files_alone(artifact: Path) -> None:
    root = merkle_root({name: hash_bytes(content) for name, content in FILES.items()})
    other = {"command": "another", "started": "2021-01-01", "seconds": 9.0, "layout": {"data": 1}}
    manifests = [
        describe(artifact), describe(artifact, record=other), describe(artifact, recipe={}),
        describe(artifact, inputs={}),
    ]  # fmt: skip
    assert {manifest.root for manifest in manifests} == {root}


def test_content_takes_the_place_of_the_files(artifact: Path) -> None:
    content = {"model": "ff" * 32}
    assert describe(artifact, content=content).root == merkle_root(content)
    assert set(describe(artifact, content=content).files) == set(FILES)


def test_every_kind_of_damage_is_named(artifact: Path) -> None:
    manifest = describe(artifact)
    (artifact / "a.txt").write_bytes(b"alphA")
    (artifact / "deep/b.bin").write_bytes(bytes(999))
    (artifact / "deep/empty").unlink()
    (artifact / "deep/new").write_text("")
    expected = [
        f"{artifact}/a.txt was altered: its hash is not the recorded one",
        f"{artifact}/deep/b.bin has 999 bytes, recorded were 1000",
        f"{artifact}/deep/empty is missing",
        f"{artifact}/deep/new was added after the manifest",
    ]
    assert verify_files(artifact, manifest) == expected
    assert verify_files(artifact, manifest, hashes=False) == expected[1:]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"not json", b"\xff\xfe", b'{"stage": "x"}'], ids=repr
)
def test_what_is_no_manifest_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "stage.manifest.json"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=re.escape(f"{path} is not a manifest")):
        read_manifest(path)


def test_a_missing_manifest_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="does not exist: run the stage that makes it"):
        read_manifest(tmp_path / "stage.manifest.json")
