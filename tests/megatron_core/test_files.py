"""Files and folders that exist whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_core.errors import ReforgeError
from megatron_core.files import (
    replace_folder,
    resumable_folder,
    staged_folder,
    write_json,
    write_text,
)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_text_is_written_below_new_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "note.txt", "grüße\n")
    assert (tmp_path / "a/b/note.txt").read_bytes() == "grüße\n".encode()
    assert names(tmp_path) == {"a/b/note.txt"}


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_leaves_the_old_text(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing, full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"note.txt"}


def test_nobody_ever_reads_half_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "note.txt", []
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(path.read_text()))
    write_text(path, "new")
    assert seen == ["old"]  # until the new text is on the disk
    assert path.read_text() == "new"


def test_json_has_sorted_keys_and_a_last_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": {"d": "ü", "c": None}})
    write_json(tmp_path / "b.json", {"a": {"c": None, "d": "ü"}, "b": 1})
    text = (tmp_path / "a.json").read_text()
    assert text == (tmp_path / "b.json").read_text()
    assert json.loads(text) == {"a": {"c": None, "d": "ü"}, "b": 1}
    assert "ü" in text
    assert text.endswith("}\n")


def test_a_staged_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "artifact"
    for text in ("first", "second"):
        with staged_folder(target) as folder:
            (folder / text).write_text(text)
            assert folder.parent == target.parent  # a rename, not a copy, moves it
            assert not (target / text).exists()
    assert names(tmp_path) == {"deep/artifact/second"}


@pytest.mark.parametrize("error", [ReforgeError("no"), KeyboardInterrupt()])
def test_a_failed_stage_leaves_the_old_folder(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "artifact"
    with staged_folder(target) as folder:
        (folder / "old").write_text("old")
    with pytest.raises(type(error)), staged_folder(target) as folder:
        (folder / "new").write_text("new")
        raise error
    assert names(tmp_path) == {"artifact/old"}


def test_what_a_kill_left_behind_is_not_in_the_next_folder(tmp_path: Path) -> None:
    left = tmp_path / f".artifact.{os.getpid()}.partial"
    left.mkdir()
    (left / "half").write_text("half")
    with staged_folder(tmp_path / "artifact") as folder:
        (folder / "whole").write_text("whole")
    assert names(tmp_path) == {"artifact/whole"}


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ReforgeError, match=r"cannot write to .*file.*; free the disk"),
        staged_folder(tmp_path / "file" / "artifact"),
    ):
        pytest.fail("the block must not run")


def test_replace_folder_leaves_one_folder(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert names(tmp_path) == {"old/new"}
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, 1):
        (tmp_path / f".model.{pid}.partial").mkdir()
    with staged_folder(tmp_path / "model"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".model.1.partial"}


def shown(folder: Path) -> set[str]:
    """The names that are not hidden."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("error", [ReforgeError("no"), KeyboardInterrupt()])
def test_a_resumable_folder_is_found_again_after_a_failure(
    tmp_path: Path, error: BaseException
) -> None:
    target = tmp_path / "artifact"
    target.mkdir()
    with pytest.raises(type(error)), resumable_folder(target, "key") as folder:
        (folder / "half").write_text("half")
        raise error
    assert shown(tmp_path) == {"artifact"}
    assert names(target) == set()
    with resumable_folder(target, "key") as folder:
        assert (folder / "half").read_text() == "half"
    assert names(target) == {"half"}
    assert not list(tmp_path.glob("*.partial"))


def test_another_key_starts_anew(tmp_path: Path) -> None:
    with pytest.raises(ReforgeError), resumable_folder(tmp_path / "artifact", "one") as folder:
        (folder / "half").write_text("half")
        raise ReforgeError("no")
    with resumable_folder(tmp_path / "artifact", "two") as folder:
        assert not list(folder.iterdir())
        assert [path.name for path in tmp_path.glob(".*.partial")] == [folder.name]


def test_two_processes_do_not_make_one_folder(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    program = (
        "from megatron_core.files import resumable_folder; from pathlib import Path; import sys\n"
        "with resumable_folder(Path(sys.argv[1]), 'key'): print('here', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(target)]
    other = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "here\n"
    with (
        pytest.raises(ReforgeError, match=r"another process is making .*artifact: wait for it"),
        resumable_folder(target, "key"),
    ):
        pytest.fail("the block must not run")
    other.kill()
    other.wait()
    with resumable_folder(target, "key"):  # a lock does not outlive its process
        pass
