"""A corpus of gigabytes through all data stages: time and the most memory of all processes."""

from __future__ import annotations

import math
import os
import random
import shutil
import string
import tempfile
import threading
import time
from pathlib import Path

import orjson
import psutil

from benchmarks.data.corpus import Corpus
from benchmarks.data.project import DATA_STAGES, make_project, root, start, write_corpus
from benchmarks.tables import write_table

GIGABYTES = float(os.environ.get("BENCHMARK_GIGABYTES", "5"))
DOCUMENTS_PER_FILE = 100_000  # about 330 MB


class _Peak:
    """Watches the proportional set size of a process and its children, in bytes."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._process, self._done = psutil.Process(pid), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            try:
                family = [self._process, *self._process.children(recursive=True)]
                self.bytes = max(self.bytes, sum(_proportional(one) for one in family))
            except psutil.NoSuchProcess:
                return

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self.bytes


def _proportional(process: psutil.Process) -> int:
    """What a process holds, shared pages counted once over all processes."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def _write_files(folder: Path) -> int:
    """Files of one corpus, each with other letters, so with other words; the bytes of all."""
    first = folder / "000.jsonl"
    write_corpus(first, Corpus(DOCUMENTS_PER_FILE))
    size, draw = first.stat().st_size, random.Random(1)
    for number in range(1, math.ceil(GIGABYTES * 1e9 / size)):
        letters = "".join(draw.sample(string.ascii_lowercase, 26))
        table = str.maketrans(string.ascii_lowercase, letters)
        with first.open("rb") as texts, (folder / f"{number:03d}.jsonl").open("wb") as file:
            for line in texts:
                text = orjson.loads(line)["text"].translate(table)
                file.write(orjson.dumps({"text": text}) + b"\n")
    return sum(file.stat().st_size for file in folder.iterdir())


def run() -> None:
    """Each stage as a user runs it, on two workers."""
    rows = []
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        size = _write_files(folder / "in")
        project = make_project(folder / "project", folder / "in", shards=64, vocabulary=32_000)
        for stage in DATA_STAGES:
            began = time.monotonic()
            process = start(project, stage)
            peak = _Peak(process.pid)
            if process.wait() != 0:
                raise SystemExit(f"{stage} failed in {project}")
            seconds = time.monotonic() - began
            rows.append(
                [
                    stage, f"{seconds:.0f} s", f"{size / 1e6 / seconds:.1f} MB/s",
                    f"{peak.stop() / 1e9:.2f} GB", root(project, stage)[:16],
                ]
            )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    write_table(
        "data_scale", "python -m benchmarks.data scale",
        ["stage", "time", "of the input", "most memory", "root"], rows,
        f"{size / 1e9:.1f} GB of synthetic documents with planted near-duplicates, two workers. "
        "Memory: proportional set size of all processes of the stage, every half second.",
    )  # fmt: skip
