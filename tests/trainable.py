"""A project that has all that ``reforge pretrain`` reads, and what runs commands in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from megatron_core.data.indexed import IndexedWriter
from megatron_core.identity import Environment, Manifest, RunRecord, manifest_path

RECIPE = """
ingest: {sources: {notes: {kind: jsonl, path: none.jsonl}}}
tokenizer: {vocabulary: 300}
finetune: {continued: {sequence_length: 16}}
evaluate: {question_source: null}
pretrain:
  model: {vocabulary: 300, positions: 32, layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn: 48}
  steps: 60
  sequence_length: 16
  batch: {sequences: 8, microbatch: 2}
  grid: {data: 4}
  schedule: {warmup_steps: 5}
  checkpoints: {every: 1000}
  validate_every: 1000
  trackers: []
"""


def write_trainable(folder: Path) -> Path:
    """The recipe, and documents of random tokens as ``reforge tokenize`` leaves them."""
    artifact = folder / "artifacts" / "tokenize"
    random = np.random.RandomState(0)
    for split, documents in (("train", 40), ("heldout", 4)):
        prefix = artifact / split / "notes_text_document"
        with IndexedWriter(prefix, np.uint16) as writer:
            for _ in range(documents):
                writer.write([*random.randint(1, 300, size=40), 0])
    record = RunRecord(
        command="x", started="x", seconds=1.0, layout={}, environment=Environment.current()
    )
    Manifest.of(artifact, stage="tokenize", inputs={}, recipe={}, record=record).write(
        manifest_path(artifact)
    )
    (folder / "params.yaml").write_text(RECIPE)
    return folder


def environment(**variables: str) -> dict[str, str]:
    """Ours, with the commands of this Python first on the path and no launcher around."""
    kept = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("REFORGE_", "TORCHELASTIC_", "SLURM_"))
        and name not in {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    }  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "COLUMNS": "500", **variables}


def start(folder: Path, *command: str, **variables: str) -> subprocess.Popen[str]:
    """A command in ``folder``, its stderr caught."""
    return subprocess.Popen(
        command, cwd=folder, env=environment(**variables), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(folder: Path, *command: str, **variables: str) -> tuple[int, str]:
    """Exit code and stderr of a command in ``folder``."""
    process = start(folder, *command, **variables)
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def root(folder: Path, stage: str = "pretrain") -> str:
    """The root that a stage left."""
    return str(json.loads((folder / f"artifacts/{stage}.manifest.json").read_text())["root"])


def saved_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints that the run in ``folder`` keeps."""
    return sorted(int(path.name[5:]) for path in folder.glob("runs/*/checkpoints/step-*"))


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Poll until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def wait_for_step(folder: Path, step: int) -> None:
    """Until the run in ``folder`` has logged ``step``."""
    wait_for(lambda: any(p.read_text().count("\n") >= step for p in folder.glob("runs/*/steps.*")))


def ranks_in(folder: Path) -> dict[int, int]:
    """Process id of each rank that runs in ``folder``, below any of its namespaces."""
    return dict(_ranks(folder))


def _ranks(folder: Path) -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        try:
            if (entry / "cwd").resolve() != folder.resolve():
                continue
            for variable in (entry / "environ").read_bytes().split(b"\0"):
                if variable.startswith(b"RANK="):
                    yield int(variable[5:]), int(entry.name)
        except (OSError, ValueError):
            continue


def kill_rank(folder: Path, rank: int, number: signal.Signals = signal.SIGKILL) -> int:
    """Send a signal to one rank that runs in ``folder``; its process id."""
    pid = ranks_in(folder)[rank]
    os.kill(pid, number)
    return pid
