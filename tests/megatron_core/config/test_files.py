"""The files that a recipe names."""

from __future__ import annotations

from pathlib import Path

from megatron_core.config import load_recipe
from megatron_core.config.files import named_files

PARAMS = """\
ingest:
  sources:
    notes: {kind: jsonl, path: "data/notes/*/part-?.jsonl"}
    more: {kind: parquet, path: data/more.parquet}
    packed: {kind: icd10cm}
decontaminate: {against: {exam: {kind: jsonl, path: exam.jsonl}}}
tokenizer: {kind: existing, path: model}
pretrain: {start: model}
finetune:
  tasks:
    a: {kind: entities, examples: {train: tasks/ner, test: tasks/ner}}
    b: {kind: classification, examples: {kind: chapters, source: packed}}
"""


def test_a_glob_is_named_by_the_folder_above_it(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(PARAMS)
    assert named_files(load_recipe(params)) == {
        "ingest": ["data/notes", "data/more.parquet"],
        "decontaminate": ["exam.jsonl"],
        "tokenizer": ["model"],
        "pretrain": ["model"],
        "finetune": ["tasks/ner"],
    }
