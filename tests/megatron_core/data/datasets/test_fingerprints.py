"""Files that were changed are found, and files that were not are not read again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron_core.data.datasets import fingerprints
from megatron_core.data.datasets.fingerprints import Arrays, IndexCache, Stamps, verify_tokens
from megatron_core.errors import IntegrityError
from megatron_core.identity import Environment, Manifest, RunRecord, hash_bytes, manifest_path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read to be hashed."""
    names: list[str] = []
    plain = fingerprints.hash_file

    def noted(path: Path) -> str:
        names.append(path.name)
        return plain(path)

    monkeypatch.setattr(fingerprints, "hash_file", noted)
    return names


def artifact(folder: Path) -> Path:
    for name in ("train/a.bin", "train/a.idx", "heldout/a.bin"):
        path = folder / "tokenize" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 10)
    record = RunRecord(
        command="x", started="x", seconds=1.0, layout={}, environment=Environment.current()
    )
    tokens = folder / "tokenize"
    manifest = Manifest.of(tokens, stage="tokenize", inputs={}, recipe={}, record=record)
    manifest.write(manifest_path(tokens))
    return tokens


def test_a_file_is_hashed_once(tmp_path: Path, hashed: list[str]) -> None:
    tokens = artifact(tmp_path)
    for _ in range(3):
        verify_tokens(tokens, Stamps(tmp_path / "runs" / "stamps.json"))
    assert sorted(hashed) == ["a.bin", "a.bin", "a.idx"]


def rewrite(path: Path) -> None:
    """Other bytes of the same size, and the time of change put back."""
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    """Another file of the same size and time of change under the name."""
    other = path.with_name("other")
    other.write_bytes(b"x" * path.stat().st_size)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize("change", [rewrite, replace, append])
def test_a_changed_file_is_refused_by_name(change: Callable[[Path], None], tmp_path: Path) -> None:
    tokens, stamps = artifact(tmp_path), Stamps(tmp_path / "stamps.json")
    verify_tokens(tokens, stamps)
    change(tokens / "train" / "a.bin")
    for _ in range(2):  # its new hash is remembered, and is still not the one recorded
        with pytest.raises(IntegrityError, match=r"train/a\.bin was changed after it was recorded"):
            verify_tokens(tokens, stamps)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    tokens = artifact(tmp_path)
    (tokens / "heldout" / "a.bin").unlink()
    with pytest.raises(IntegrityError, match=r"heldout/a\.bin is missing"):
        verify_tokens(tokens, Stamps(tmp_path / "stamps.json"))


def test_what_is_only_touched_is_hashed_again_and_taken(tmp_path: Path, hashed: list[str]) -> None:
    tokens, stamps = artifact(tmp_path), Stamps(tmp_path / "stamps.json")
    verify_tokens(tokens, stamps)
    (tokens / "train" / "a.idx").touch()
    hashed.clear()
    verify_tokens(tokens, stamps)
    assert hashed == ["a.idx"]


def test_torn_stamps_cost_hashes_alone(tmp_path: Path, hashed: list[str]) -> None:
    tokens, path = artifact(tmp_path), tmp_path / "stamps.json"
    path.write_text('{"x": ')
    verify_tokens(tokens, Stamps(path))
    assert len(hashed) == 3
    file = tokens / "train" / "a.idx"
    assert Stamps(path).hashes([file])[file] == hash_bytes(file.read_bytes())


def test_arrays_are_built_once_for_what_they_are_made_from(tmp_path: Path) -> None:
    built: list[int] = []

    def load(file: Path, **recipe: int) -> Arrays:
        def build() -> Arrays:
            built.append(1)
            return {"x": np.arange(len(built)), "y": np.zeros((2, 2), dtype=np.uint32)}

        return IndexCache(tmp_path / "data").load("kind", [file], recipe, build)

    file = tmp_path / "a.idx"
    file.write_bytes(b"one")
    assert load(file, seed=1)["x"].tolist() == [0]
    assert load(file, seed=1)["x"].tolist() == [0]
    assert load(file, seed=2)["x"].tolist() == [0, 1]
    file.write_bytes(b"two")
    assert load(file, seed=1)["x"].tolist() == [0, 1, 2]
    file.write_bytes(b"one")
    found = load(file, seed=1)
    assert found["x"].tolist() == [0]
    assert found["y"].dtype == np.uint32
    assert len(built) == 3


def test_kept_arrays_that_were_changed_are_refused(tmp_path: Path) -> None:
    cache = IndexCache(tmp_path / "data")

    def load() -> Arrays:
        return cache.load("kind", [], {}, lambda: {"x": np.arange(9)})

    load()
    (path,) = (tmp_path / "data").glob("kind-*/x.npy")
    np.save(path, np.arange(9)[::-1])
    with pytest.raises(IntegrityError, match="is not what was computed: remove it"):
        load()
