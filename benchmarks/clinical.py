"""Clinical tasks with small models, each beside its baselines.

    python -m benchmarks.clinical [--folder FOLDER] [--start FOLDER]

An encoder, pretrained and from its initial weights, finds disease names (NCBI-disease) and answers
questions by yes, no or maybe (PubMedQA). A decoder writes notes of dialogues (MTS-Dialog), tuned
whole, by low-rank changes and by a soft prompt; --start names the laptop recipe's exported model,
and without it there are no notes.

Reads these and MedQuAD from the folder in ``BENCHMARK_DATA``, and the default sources. What is in
--folder already is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.baselines import summaries
from benchmarks.tables import write_table

DATA = Path(os.environ.get("BENCHMARK_DATA", "../shared/data"))

_ENCODER = """\
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
    position_embedding: rotary
    head_transform: true
    head_bias: true
    initial_std: 0.02
    dropout: 0.0
  masking: {{framed: true, whole_words: true}}
  steps: 600
  sequence_length: 128
  batch: {{sequences: 32, microbatch: 16}}
  grid: {{data: 2}}
  optimizer: {{learning_rate: 2.0e-3, weight_decay: 0.01}}
  schedule: {{warmup_steps: 50, final: 0.05}}
  checkpoints: {{every: 250, keep_last: 1}}
  validate_every: 100
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
    decisions:
      kind: classification
      examples:
        kind: texts
        train: pubmedqa_train.json
        test: pubmedqa_test.json
        text: QUESTION
        second: CONTEXTS
        label: final_decision
      repeats: 3
      steps: 96
      sequence_length: 128
      batch: {{sequences: 16, microbatch: 16}}
      optimizer: {{learning_rate: 5.0e-4, weight_decay: 0.01}}
      schedule: {{warmup_steps: 10, final: 0.0}}
      checkpoints: {{every: 48, keep_last: 1}}
      validate_every: 48
      fingerprint_every: 0
      trackers: []
"""

_DECODER = """\
ingest:
  sources:
    hpo: {{kind: hpo}}
curate: {{}}
dedup: {{}}
decontaminate: {{}}
tokenizer: {{kind: existing, path: model}}
tokenize: {{}}
pretrain:
  start: model
  steps: 0
  model:
    vocabulary: 2048
    positions: 512
    layers: 4
    hidden: 128
    heads: 4
    kv_heads: 2
    ffn: 384
    initial_std: 0.06
  sequence_length: 128
finetune:
  continued: null
  tasks:
    whole:{task}
      optimizer: {{learning_rate: 1.0e-3, weight_decay: 0.01}}
    lora:{task}
      adapter: {{kind: lora, rank: 8, matrices: [query, key, value, output, gate, up, down]}}
      optimizer: {{learning_rate: 5.0e-3, weight_decay: 0.01}}
    soft_prompt:{task}
      adapter: {{kind: soft_prompt, tokens: 16, encoder: 256}}
      optimizer: {{learning_rate: 1.0e-2, weight_decay: 0.01}}
"""

_NOTES = """
      kind: instructions
      examples:
        train: {data}/mts_dialog/TrainingSet.csv
        test: {data}/mts_dialog/TestSet-1-MEDIQA-Chat-2023.csv
        prompt: "Dialogue:\\n{{dialogue}}\\n\\nNote:"
        response: section_text
      generate: 48
      steps: 60
      sequence_length: 512
      batch: {{sequences: 8, microbatch: 4}}
      schedule: {{warmup_steps: 6, final: 0.0}}
      checkpoints: {{every: 30, keep_last: 1}}
      validate_every: 60
      fingerprint_every: 0
      trackers: []"""

_DIALOGUES = (
    " MTS-Dialog: 60 steps of 8 sequences of the training dialogues with the laptop recipe's "
    "decoder of a million weights, which has seen no dialogue; it answers with at most 48 tokens."
)

_CORPUS = ("ingest", "curate", "dedup", "decontaminate", "tokenizer", "tokenize")
_MODELS = {"tfidf_logistic_regression": "TF-IDF, logistic regression"}
_METRICS = {
    "diseases": ("micro_f1", "micro_precision", "micro_recall"),
    "decisions": ("macro_f1", "accuracy"),
    "notes": ("rouge_1", "rouge_2", "rouge_l", "token_probability"),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, help="where the projects are made and kept")
    parser.add_argument("--start", type=Path, help="the laptop recipe's exported model")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="clinical-"))
    pretrained, scratch = _encoders(folder)
    rows = [*_encoder_rows(pretrained, scratch)]
    if options.start is not None:
        rows += _decoder_rows(_decoder(folder, options.start))
    given = " --start FOLDER" if options.start is not None else ""
    write_table(
        "clinical", f"python -m benchmarks.clinical{given}",
        ["data", "model", "metric", "score", "95 % interval"], rows,
        _note(pretrained, dialogues=options.start is not None),
    )  # fmt: skip


def _encoders(folder: Path) -> tuple[Path, Path]:
    """Both projects, finished: one pretrained, one with its initial weights and the same tokens."""
    pretrained, scratch = folder / "pretrained", folder / "scratch"
    for project in (pretrained, scratch):
        project.mkdir(parents=True, exist_ok=True)
        (project / "params.yaml").write_text(_ENCODER.format(data=DATA.resolve()))
        _split_questions(project)
    for stage in (*_CORPUS, "pretrain"):
        _reforge(pretrained, stage)
    if not (scratch / "artifacts").exists():
        (scratch / "artifacts").mkdir()
        for stage in _CORPUS:
            shutil.copytree(pretrained / "artifacts" / stage, scratch / "artifacts" / stage)
            shutil.copy(_manifest(pretrained, stage), scratch / "artifacts")
    # A step that moves nothing leaves the initial weights.
    _reforge(
        scratch, "pretrain", "--set", "pretrain.steps=1",
        "--set", "pretrain.schedule.warmup_steps=0",
        "--set", "pretrain.optimizer.learning_rate=1.0e-12",
    )  # fmt: skip
    for project in (pretrained, scratch):
        _reforge(project, "finetune")
    return pretrained, scratch


def _split_questions(project: Path) -> None:
    """PubMedQA's official test questions, and the others."""
    questions = _read(DATA / "pubmedqa/ori_pqal.json")
    test = _read(DATA / "pubmedqa/test_ground_truth.json")
    for name, wanted in (("train", False), ("test", True)):
        part = {id: one for id, one in questions.items() if (id in test) == wanted}
        (project / f"pubmedqa_{name}.json").write_text(json.dumps(part))


def _decoder(folder: Path, start: Path) -> Path:
    """The project of the dialogues, finished."""
    project = folder / "dialogues"
    project.mkdir(parents=True, exist_ok=True)
    task = _NOTES.format(data=DATA.resolve())
    (project / "params.yaml").write_text(_DECODER.format(task=task))
    if not (project / "model").exists():
        shutil.copytree(start, project / "model")
    for stage in (*_CORPUS, "pretrain", "finetune"):
        _reforge(project, stage)
    return project


def _reforge(project: Path, stage: str, *options: str) -> None:
    if not _manifest(project, stage).exists():
        command = [sys.executable, "-m", "stages.app", stage, *options]
        subprocess.run(command, cwd=project, check=True)


def _manifest(project: Path, stage: str) -> Path:
    return project / f"artifacts/{stage}.manifest.json"


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _results(project: Path, task: str) -> dict[str, Any]:
    return dict(_read(project / f"artifacts/finetune/results/{task}.json"))


def _encoder_rows(pretrained: Path, scratch: Path) -> Iterator[list[str]]:
    for task, data in (("diseases", "NCBI-disease"), ("decisions", "PubMedQA")):
        found, without = _results(pretrained, task), _results(scratch, task)
        named = f"{data}, test ({found['details']['test']})"
        metrics = _METRICS[task]
        yield from _rows(named, "encoder, pretrained", found["scores"]["model"], metrics)
        yield from _rows(named, "encoder, initial weights", without["scores"]["model"], metrics)
        for name, scores in found["scores"].items():
            if name != "model":
                yield from _rows(named, _MODELS.get(name, name), scores, metrics)


def _decoder_rows(project: Path) -> Iterator[list[str]]:
    names = {"whole": "all weights", "lora": "LoRA", "soft_prompt": "soft prompt"}
    results = {task: _results(project, task) for task in names}
    first = results["whole"]
    data = f"MTS-Dialog, test 1 ({first['details']['test']})"
    for task, name in names.items():
        model = results[task]["scores"]["model"]
        yield from _rows(data, f"decoder, {name}", model, _METRICS["notes"])
    yield from _rows(data, "decoder, not tuned", first["scores"]["start"], _METRICS["notes"])
    yield from summaries()


def _rows(
    data: str, model: str, scores: Mapping[str, Mapping[str, float]], metrics: tuple[str, ...]
) -> Iterator[list[str]]:
    """In percent."""
    for metric in metrics:
        if metric in scores:
            one = scores[metric]
            interval = f"{100 * one['low']:.1f} to {100 * one['high']:.1f}" if "low" in one else ""
            yield [data, model, metric, f"{100 * one['value']:.1f}", interval]


def _note(pretrained: Path, *, dialogues: bool) -> str:
    trained = _read(pretrained / "metrics/pretrain.json")
    minutes = _read(_manifest(pretrained, "pretrain"))["record"]["seconds"] / 60
    return (
        f"An encoder of {trained['parameters']:,} weights: {trained['steps']} steps of 4,096 "
        "tokens with masked words on MedQuAD, Wikipedia, ICD-10-CM and HPO, "
        f"{minutes:.0f} minutes on one core, to a held-out loss of {trained['heldout_loss']:.2f}. "
        "Its positions are rotary: with learned ones the loss was still 6.78 after as many steps, "
        "hardly less than the 7.07 that the frequencies of tokens give. Three seeds, with "
        "Student's interval over them; intervals of all others are a bootstrap over sentences, "
        "questions and dialogues. "
        "NCBI-disease: 600 steps of 16 sentences, strict scores of entities. PubMedQA: 3 passes "
        "over the 500 other questions; of question and abstract 128 tokens are read, a third of "
        "most."
    ) + (_DIALOGUES if dialogues else "")


if __name__ == "__main__":
    main()
