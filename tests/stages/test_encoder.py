"""The whole pipeline for an encoder, from ingest to report, and what it leaves."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kernels.cross_entropy import IGNORED
from megatron_core.config import load_recipe
from megatron_core.errors import ConfigError
from megatron_core.exchange import ModelFolder
from megatron_core.model import Documents, LanguageModel, Place, Segments, load_parameters
from megatron_core.trainer.assemble import prediction_objective
from stages.audit import audit
from stages.convert import convert
from stages.curate import curate
from stages.decontaminate import decontaminate
from stages.dedup import dedup
from stages.evaluate import evaluate
from stages.finetune import finetune
from stages.generate import generate
from stages.ingest import ingest
from stages.pretrain import pretrain
from stages.report import report
from stages.tokenize import tokenize
from stages.tokenizer import tokenizer

PARAMS = """\
ingest: {sources: {notes: {kind: jsonl, path: notes.jsonl}}, shards: 2}
decontaminate: {heldout: 0.2}
tokenizer: {kind: wordpiece, vocabulary: 300}
pretrain:
  model: {kind: encoder, vocabulary: 300, positions: 64, layers: 2, hidden: 32, heads: 4,
    kv_heads: 4, ffn: 48, position_embedding: learned, token_types: 2, pooler: true,
    activation: gelu, norm: layer, tied_embeddings: true, attention_bias: all, ffn_bias: true,
    head_transform: true, head_bias: true}
  steps: 6
  sequence_length: 32
  batch: {sequences: 8, microbatch: 4}
  grid: {data: 2}
  masking: {framed: true, pairs: sentence_order}
  schedule: {warmup_steps: 1}
  checkpoints: {every: 3, keep_last: 2}
  validate_every: 3
  trackers: []
finetune:
  continued: null
  tasks:
    organs:
      kind: classification
      examples: {kind: texts, train: organs.jsonl}
      steps: 4
      sequence_length: 32
      batch: {sequences: 8, microbatch: 4}
      schedule: {warmup_steps: 1}
      repeats: 2
      trackers: []
execution: {workers: 1}
"""
ORGANS = ("heart", "liver", "kidney")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stages have all run."""
    folder = tmp_path_factory.mktemp("encoder")
    draw = random.Random(1)
    words = [
        "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 6)))
        for _ in range(600)
    ]

    def sentence() -> str:
        return " ".join(draw.choices(words, k=9)).capitalize() + "."

    notes = [{"text": " ".join(sentence() for _ in range(4))} for _ in range(80)]
    texts = [
        {"text": f"{sentence()} The {organ}.", "label": organ}
        for organ in ORGANS
        for _ in range(20)
    ]
    for name, rows in (("notes", notes), ("organs", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "params.yaml").write_text(PARAMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (ingest, curate, dedup, decontaminate, tokenizer, tokenize):
            stage()
        pretrain(layout="data=1")
        finetune(layout="data=1")
        for stage in (convert, evaluate, audit, report):
            stage()
    return folder


def read(project: Path, path: str) -> dict[str, Any]:
    return dict(json.loads((project / path).read_text()))


def test_hidden_tokens_are_scored_as_a_plain_model_finds_them(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    scores = read(project, "artifacts/evaluate/scores.json")
    assert set(scores["masked"]) == {"pretrained"}
    assert scores["perplexity"] == scores["multiple_choice"] == scores["tasks"] == {}
    stored = ModelFolder.open(Path("artifacts/pretrain"))
    assert scores["roots"]["pretrained"] == stored.root()
    model = LanguageModel(stored.config).double()
    load_parameters(model, {name: weight.double() for name, weight in stored.weights.items()})
    config = load_recipe(Path("params.yaml")).pretrain
    objective = prediction_objective(config, stored.config, Path("artifacts/tokenize"), Path("r"))
    losses, right, told = [], [], []
    for make in objective.heldout(4, 1):
        batch = make()
        assert batch.documents is not None and batch.types is not None and batch.labels is not None
        place = Place(documents=Documents.of(batch.documents.T), segments=Segments(batch.types.T))
        with torch.no_grad():
            (x,) = model.blocks(model.embed([batch.tokens.T], [place]), [place])
            (x,) = model.normed([x], [place])
            (logits,) = model.scores(x, place)
            pairs = model.pair_scores(x, place).argmax(dim=1)
        chosen = batch.targets.T != IGNORED
        targets = batch.targets.T[chosen]
        losses.append(F.cross_entropy(logits[chosen], targets, reduction="none"))
        right.append(logits[chosen].argmax(dim=1) == targets)
        real = batch.labels != IGNORED
        told.append(pairs[real] == batch.labels[real])
    found = scores["masked"]["pretrained"]
    assert found["loss"] == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)
    assert found["accuracy"] == pytest.approx(float(torch.cat(right).double().mean()))
    assert found["pair_accuracy"] == pytest.approx(float(torch.cat(told).double().mean()))
    assert found["tokens"] == len(torch.cat(losses))
    assert found["loss_low"] < found["loss"] < found["loss_high"]


def test_what_the_stages_leave(project: Path) -> None:
    results = read(project, "artifacts/finetune/results/organs.json")
    assert set(results["seeds"]) == {"1", "2"}
    for folder in ("organs-1", "organs-2"):
        assert (project / "artifacts/finetune" / folder / "steps.jsonl").is_file()
    assert set(read(project, "metrics/convert.json")) == {"pretrain"}
    certificate = read(project, "artifacts/convert/pretrain/certificate.json")
    assert certificate["max_logit_difference"] < 1e-4
    page = (project / "artifacts/report/report.html").read_text()
    for said in ("organs: classes of texts", "Finding hidden tokens", "Task organs, seed 2"):
        assert said in page
    audited = read(project, "artifacts/audit/audit.json")
    assert audited["replay"]["same"] is True
    assert set(audited["stages"]["finetune"]["checkpoints"]) >= {
        f"organs-{seed}/checkpoints/step-00000004" for seed in (1, 2)
    }


def test_what_an_encoder_cannot_do(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(ConfigError, match="an encoder is scored on one rank"):
        evaluate(layout="data=2")
    with pytest.raises(ConfigError, match=r"evaluate\.tasks: is of decoders alone"):
        evaluate(overrides=["evaluate.tasks=[arc]"])
    with pytest.raises(Exception, match="an encoder, which predicts no next token"):
        generate(["a"])
