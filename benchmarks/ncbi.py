"""Does pretraining help? Disease names on NCBI-disease, with and without it, three seeds.

Reads MedQuAD and NCBI-disease from the folder in ``BENCHMARK_DATA``, and the default sources. With
``BENCHMARK_FOLDER`` the projects stay there, and what is done is not done again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.tables import write_table

DATA = Path(os.environ.get("BENCHMARK_DATA", "../shared/data"))
STEPS = int(os.environ.get("BENCHMARK_STEPS", "1000"))

_PARAMS = """\
ingest:
  sources:
    medquad: {{kind: jsonl, path: {data}/medquad/medquad.jsonl.gz, text: answer}}
    wikipedia: {{kind: gensim_wikipedia}}
    icd10cm: {{kind: icd10cm}}
    hpo: {{kind: hpo}}
  shards: 4
curate: {{}}
dedup: {{}}
decontaminate:
  heldout: 0.02
tokenizer: {{kind: wordpiece, vocabulary: 8192}}
tokenize: {{}}
pretrain:
  model:
    kind: encoder
    vocabulary: 8192
    positions: 128
    layers: 4
    hidden: 128
    heads: 4
    kv_heads: 4
    ffn: 512
    activation: gelu
    norm: layer
    attention_bias: all
    ffn_bias: true
    position_embedding: learned
    head_transform: true
    head_bias: true
    initial_std: 0.02
    dropout: 0.0
  masking: {{framed: true, whole_words: true}}
  steps: {steps}
  sequence_length: 128
  batch: {{sequences: 32, microbatch: 16}}
  grid: {{data: 2}}
  optimizer: {{learning_rate: 2.0e-3, weight_decay: 0.01}}
  schedule: {{warmup_steps: {warmup}, final: 0.05}}
  checkpoints: {{every: 250, keep_last: 1}}
  validate_every: 250
  fingerprint_every: 0
  trackers: []
finetune:
  continued: null
  tasks:
    diseases:
      kind: entities
      examples:
        train: {data}/ncbi_disease/train.tsv
        test: {data}/ncbi_disease/test.tsv
      repeats: 3
      steps: 600
      sequence_length: 64
      batch: {{sequences: 16, microbatch: 8}}
      grid: {{data: 2}}
      optimizer: {{learning_rate: 1.0e-3, weight_decay: 0.01}}
      schedule: {{warmup_steps: 60, final: 0.0}}
      checkpoints: {{every: 300, keep_last: 1}}
      validate_every: 300
      fingerprint_every: 0
      trackers: []
convert: {{}}
evaluate: {{}}
"""

_CORPUS = ("ingest", "curate", "dedup", "decontaminate", "tokenizer", "tokenize")


def run() -> None:
    """Both models on the same tokens; the one without pretraining has its initial weights."""
    kept = os.environ.get("BENCHMARK_FOLDER")
    folder = Path(kept or tempfile.mkdtemp(prefix="ncbi-"))
    try:
        pretrained, scratch = folder / "pretrained", folder / "scratch"
        pretrained.mkdir(parents=True, exist_ok=True)
        text = _PARAMS.format(data=DATA.resolve(), steps=STEPS, warmup=max(1, STEPS // 20))
        (pretrained / "params.yaml").write_text(text)
        for stage in _CORPUS:
            _reforge(pretrained, stage)
        if not scratch.exists():
            shutil.copytree(pretrained, scratch)
        seconds = _reforge(pretrained, "pretrain", "--layout", "data=2")
        # A step that moves nothing leaves the initial weights.
        _reforge(
            scratch, "pretrain", "--set", "pretrain.steps=1",
            "--set", "pretrain.schedule.warmup_steps=0",
            "--set", "pretrain.optimizer.learning_rate=1.0e-12",
        )  # fmt: skip
        found = {
            project.name: (_reforge(project, "finetune", "--layout", "data=2"), _results(project))
            for project in (pretrained, scratch)
        }
        loss = json.loads((pretrained / "metrics/pretrain.json").read_text())
        _write(found, loss, seconds)
    finally:
        if kept is None:
            shutil.rmtree(folder)


def _reforge(project: Path, stage: str, *options: str) -> float:
    """Seconds that a stage took."""
    manifest = project / f"artifacts/{stage}.manifest.json"
    if not manifest.exists():
        command = [sys.executable, "-m", "stages.app", stage, *options]
        subprocess.run(command, cwd=project, check=True)
    return float(json.loads(manifest.read_text())["record"]["seconds"])


def _results(project: Path) -> dict[str, Any]:
    path = project / "artifacts/finetune/results/diseases.json"
    return dict(json.loads(path.read_text()))


def _write(found: dict[str, Any], loss: dict[str, Any], seconds: float) -> None:
    def row(name: str, scores: dict[str, dict[str, float]]) -> list[str]:
        f1 = scores["micro_f1"]
        return [
            name, f"{f1['value']:.4f}", f"{f1['low']:.4f} to {f1['high']:.4f}",
            f"{scores['micro_precision']['value']:.4f}", f"{scores['micro_recall']['value']:.4f}",
        ]  # fmt: skip

    names = {"pretrained": "encoder, pretrained", "scratch": "the same, from initial weights"}
    rows = [row(names[name], results["scores"]["model"]) for name, (_, results) in found.items()]
    rows.append(row("dictionary", found["scratch"][1]["scores"]["dictionary"]))
    write_table(
        "ncbi", "python -m benchmarks.ncbi",
        ["NCBI-disease, test", "strict F1", "95 % interval", "precision", "recall"], rows,
        f"An encoder of {loss['parameters']:,} weights: {STEPS} steps of masked words on MedQuAD, "
        f"Wikipedia, ICD-10-CM and HPO (held-out loss {loss['heldout_loss']:.3f}, "
        f"{seconds / 60:.0f} minutes on two cores), then 600 steps on the training sentences, "
        "three seeds. Intervals of models are over seeds (Student), that of the dictionary is over "
        "sentences (bootstrap).",
    )  # fmt: skip


if __name__ == "__main__":
    run()
