"""A description that was altered is refused, whatever was changed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_core.checkpoint import Checkpoint, read_checkpoint, verify_checkpoint
from megatron_core.errors import IntegrityError
from tests.megatron_core.checkpoint.cuts import change_byte, save_alone, some_state


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint; not to be changed."""
    path = tmp_path_factory.mktemp("stored") / "step-00000007"
    save_alone(path, some_state())
    return path


@pytest.fixture
def path(stored: Path, tmp_path: Path) -> Path:
    """A copy of it to alter."""
    return shutil.copytree(stored, tmp_path / stored.name)


def without(d: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in d.items() if k != key}


@pytest.mark.parametrize(
    "change",
    [
        lambda d: {**d, "step": 8},
        lambda d: {**d, "root": d["root"][::-1]},
        lambda d: {**d, "leaves": {**d["leaves"], "weights/scale/0": "00"}},
        lambda d: {**d, "leaves": without(d["leaves"], "weights/scale/0")},
        lambda d: {**d, "scalars": {"loss_scale": 512.0}},
        lambda d: {**d, "tensors": {**d["tensors"], "norm.weight": {"shape": [6, 8]}}},
        lambda d: {**d, "run": "other"},
        lambda d: {**d, "model": {"kind": "some"}},
        lambda d: {**d, "files": {}},
        lambda d: {**d, "seal": ""},
        lambda d: {**d, "more": 1},
        lambda d: without(d, "files"),
        lambda d: [],
    ],
    ids=[
        "step", "root", "leaf", "fewer_leaves", "scalar", "shape", "run", "model", "files", "seal",
        "more", "less", "list",
    ],
)  # fmt: skip
def test_an_altered_description_is_refused(change: Callable[[object], object], path: Path) -> None:
    description = path / "checkpoint.json"
    description.write_text(json.dumps(change(json.loads(description.read_text()))))
    with pytest.raises(IntegrityError, match=re.escape(f"{description} was ")):
        read_checkpoint(path)


def test_a_torn_or_missing_description_is_refused(path: Path) -> None:
    description = path / "checkpoint.json"
    description.write_text(description.read_text()[:-20])
    with pytest.raises(IntegrityError, match="was torn or altered"):
        read_checkpoint(path)
    description.unlink()
    with pytest.raises(IntegrityError, match=r"not a checkpoint: it has no checkpoint\.json"):
        read_checkpoint(path)


def test_contents_are_hashed_on_request(path: Path) -> None:
    file = path / "second/__0_0.distcp"
    change_byte(file)
    assert read_checkpoint(path).step == 7
    with pytest.raises(IntegrityError, match=re.escape(f"{file} was altered: delete {path}")):
        read_checkpoint(path, verify=True)


def test_a_consistent_forgery_does_not_pass_the_verification(path: Path, tmp_path: Path) -> None:
    """Files of other tensors under the description's hashes of files, but not of its leaves."""
    state = some_state()
    state["second", "layers.0.attention.query.weight", 1][20_000] += 1
    other = save_alone(tmp_path / "other", state)
    ours = read_checkpoint(path)
    for name in other.files:
        (path / name).write_bytes((tmp_path / "other" / name).read_bytes())
    forged = Checkpoint.model_validate({**ours.model_dump(), "files": other.files}).sealed()
    (path / "checkpoint.json").write_text(forged.model_dump_json())
    read_checkpoint(path, verify=True)
    with pytest.raises(IntegrityError, match=re.escape("query.weight/1 is not the")):
        verify_checkpoint(path)
