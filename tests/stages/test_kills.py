"""A stage whose processes are all killed amid its tasks: the next attempt ends with the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_core.data.documents import list_shards
from megatron_core.identity import manifest_path, read_manifest
from stages.curate import curate
from stages.ingest import ingest

SHARDS = 20
PARAMS = f"""\
ingest:
  shards: {SHARDS}
  sources: {{notes: {{kind: jsonl, path: notes.jsonl}}}}
execution: {{workers: 1}}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with documents that keep each task of a stage busy for a tenth of a second."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    with (tmp_path / "notes.jsonl").open("w") as file:
        for number in range(20_000):
            words = " ".join(f"word{number * place % 997}" for place in range(40))
            file.write(json.dumps({"text": f"Note {number // 2}: {words}."}) + "\n")
    ingest()
    return tmp_path


def start(stage: str) -> subprocess.Popen[bytes]:
    """The command, leader of a process group of its own and its two workers."""
    command = "import sys; from stages.app import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", command, stage, "--set", "execution.workers=2"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def recorded() -> dict[int, int]:
    """The tasks that attempts have done, and the inode of each record."""
    found = Path("artifacts").glob(".curate.*.partial/.tasks/curate/*")
    return {int(path.name): path.stat().st_ino for path in found if path.name.isdecimal()}


def kill_amid_tasks() -> dict[int, int]:
    """Kill the stage once a task more is recorded; those that are."""
    before = recorded()
    process = start("curate")
    try:
        while process.poll() is None and len(recorded()) <= len(before):
            time.sleep(0.001)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    return recorded()


def root() -> str:
    return read_manifest(manifest_path(Path("artifacts/curate"))).root


def test_a_killed_stage_goes_on(project: Path) -> None:
    curate()
    undisturbed = root()
    once = kill_amid_tasks()
    twice = kill_amid_tasks()
    assert 0 < len(once) < len(twice) < SHARDS
    assert once.items() <= twice.items(), "what was done was done again"
    curate()
    assert root() == undisturbed
    assert len(list_shards(Path("artifacts/curate/documents"))) == SHARDS
    assert not list(Path("artifacts").glob(".curate.*.partial"))
