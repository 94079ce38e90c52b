"""SIGKILL at random moments in every data stage, then again: the artifacts are identical."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from pathlib import Path

from benchmarks.data.corpus import Corpus
from benchmarks.data.project import DATA_STAGES, make_project, root, start, write_corpus
from benchmarks.tables import write_table

ROUNDS, DOCUMENTS, SHARDS = 4, 20_000, 16


def run() -> None:
    """Of each stage: rounds, kills that hit, and the roots that came out."""
    rows = []
    dice = random.Random(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_corpus(folder / "corpus.jsonl", Corpus(DOCUMENTS))
        undisturbed = make_project(folder / "one", folder / "corpus.jsonl", shards=SHARDS)
        killed = make_project(folder / "two", folder / "corpus.jsonl", shards=SHARDS)
        for stage in DATA_STAGES:
            began = time.monotonic()
            if start(undisturbed, stage).wait() != 0:
                raise SystemExit(f"{stage} failed undisturbed")
            alone = seconds = time.monotonic() - began
            roots, hits = set(), 0
            for _ in range(ROUNDS):
                hits += _kill_once(killed, stage, dice.uniform(0.3, 1.0) * seconds)
                if dice.random() < 0.5:  # what was resumed is sometimes killed again
                    hits += _kill_once(killed, stage, dice.uniform(0.3, 1.0) * seconds)
                began = time.monotonic()
                if start(killed, stage).wait() != 0:
                    raise SystemExit(f"{stage} failed after a kill")
                # The first run may have met a busy machine; kills after the end hit nothing.
                seconds = min(seconds, time.monotonic() - began)
                roots.add(root(killed, stage))
            same = "one root" if roots == {root(undisturbed, stage)} else "DIFFERENT ROOTS"
            rows.append([stage, str(ROUNDS), str(hits), f"{alone:.1f} s", same])
    write_table(
        "data_kills", "python -m benchmarks.data kills",
        ["stage", "rounds", "kills that hit", "undisturbed", "artifacts"], rows,
        f"{DOCUMENTS:,} documents in {SHARDS} shards, two workers; SIGKILL to all processes of the "
        "stage at a random moment of its second two thirds, then the same command again.",
    )  # fmt: skip


def _kill_once(project: Path, stage: str, seconds: float) -> int:
    """Start the stage and kill it; 1 unless it was done before."""
    process = start(project, stage)
    time.sleep(seconds)
    done = process.poll() is not None
    if not done:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return int(not done)
