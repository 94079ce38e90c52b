"""A project whose data stages the benchmarks run as a user would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import orjson

from benchmarks.data.corpus import Corpus
from megatron_core.config import STAGES

DATA_STAGES = STAGES[: STAGES.index("tokenize") + 1]

_PARAMS = """\
ingest:
  sources:
    corpus: {{kind: jsonl, path: {corpus}}}
  shards: {shards}
curate: {{}}
dedup: {{}}
decontaminate: {{heldout: 0.02}}
tokenizer: {{vocabulary: {vocabulary}}}
tokenize: {{}}
pretrain: {{model: {{vocabulary: {vocabulary}}}}}
convert: {{}}
evaluate: {{}}
execution: {{workers: {workers}}}
"""


def write_corpus(path: Path, corpus: Corpus) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for document in corpus:
            file.write(orjson.dumps({"text": document.text}) + b"\n")


def make_project(
    folder: Path, corpus: Path, *, shards: int, vocabulary: int = 2048, workers: int = 2
) -> Path:
    """A folder with a recipe for ``corpus``, a JSONL file or a folder of them."""
    folder.mkdir(parents=True)
    text = _PARAMS.format(corpus=corpus, shards=shards, vocabulary=vocabulary, workers=workers)
    (folder / "params.yaml").write_text(text)
    return folder


def start(project: Path, stage: str) -> subprocess.Popen[bytes]:
    """``reforge STAGE`` in a session of its own, so that it can be killed with its workers."""
    return subprocess.Popen(
        [sys.executable, "-m", "stages.app", stage],
        cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def root(project: Path, stage: str) -> str:
    """What the artifact of ``stage`` is."""
    manifest = project / "artifacts" / f"{stage}.manifest.json"
    return str(json.loads(manifest.read_text())["root"])
