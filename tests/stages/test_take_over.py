"""A Hugging Face model adapted to a domain, from ingest to report, without a network."""

from __future__ import annotations

import json
import random
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_core.checkpoint import StoredWeights, find_checkpoints
from megatron_core.errors import ConfigError, IntegrityError
from megatron_core.exchange import ModelFolder
from stages.audit import audit
from stages.convert import convert
from stages.curate import curate
from stages.decontaminate import decontaminate
from stages.dedup import dedup
from stages.evaluate import evaluate
from stages.finetune import finetune
from stages.ingest import ingest
from stages.plan import plan
from stages.pretrain import pretrain
from stages.report import report
from stages.tokenize import tokenize
from stages.tokenizer import tokenizer
from stages.trace import trace
from tests.models import small_tokenizer
from tests.network import ReachedOutError, nothing_but_local

PARAMS = """\
ingest:
  sources:
    domain: {kind: jsonl, path: domain.jsonl}
    general: {kind: jsonl, path: general.jsonl}
  shards: 2
decontaminate: {heldout: 0.2}
tokenizer: {kind: existing, path: model}
pretrain:
  start: model
  steps: 0
  model: {vocabulary: 300, positions: 64, layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn: 48,
    tied_embeddings: false, norm_epsilon: 1.0e-5}
  sequence_length: 32
finetune:
  continued:
    sources: {domain: 1.0, general: 0.1}
    steps: 6
    sequence_length: 32
    batch: {sequences: 8, microbatch: 4}
    grid: {data: 2}
    optimizer: {learning_rate: 1.0e-2}
    schedule: {warmup_steps: 1}
    checkpoints: {every: 3}
    trackers: []
evaluate: {documents_per_source: 4, generation: {prompts: [The], tokens: 4}}
execution: {workers: 1}
"""
PRETRAIN = Path("artifacts/pretrain")


def llama(folder: Path) -> None:
    """A random model as transformers saves it, with its tokenizer."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        rms_norm_eps=1e-5, tie_word_embeddings=False,
    )  # fmt: skip
    config.rope_parameters["rope_theta"] = 10_000.0
    LlamaForCausalLM(config).save_pretrained(folder)
    small_tokenizer(folder)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stages have all run, with nothing else to be reached."""
    folder = tmp_path_factory.mktemp("adaptation")
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(300)]
    for name in ("domain", "general"):
        texts = [" ".join(draw.choices(words, k=30)).capitalize() + "." for _ in range(60)]
        lines = (json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    llama(folder / "model")
    (folder / "params.yaml").write_text(PARAMS)
    with pytest.MonkeyPatch.context() as patch, nothing_but_local() as asked:
        patch.chdir(folder)
        for name in ("RANK", "WORLD_SIZE", "REFORGE_LAYOUT"):
            patch.delenv(name, raising=False)
        for stage in (ingest, curate, dedup, decontaminate, tokenizer, tokenize):
            stage()
        pretrain(layout="data=1")
        finetune(layout="data=1")
        for stage in (convert, evaluate, audit, report):
            stage()
    assert asked == []
    return folder


def read(project: Path, path: str) -> dict[str, Any]:
    return dict(json.loads((project / path).read_text()))


def test_the_guard_sees_what_asks_for_another_machine() -> None:
    with nothing_but_local() as asked:
        with pytest.raises((ReachedOutError, OSError)):
            urllib.request.urlopen("http://example.invalid")
        assert asked == ["example.invalid"]


def test_the_model_is_taken_as_it_is(project: Path) -> None:
    (path,) = find_checkpoints(project / PRETRAIN / "checkpoints")
    assert path.name == "step-00000000"
    ours = StoredWeights(path)
    theirs = ModelFolder.open(project / "model")
    assert set(ours) == set(theirs.weights)
    assert all(torch.equal(ours[name], theirs.weights[name]) for name in ours)
    root = read(project, "artifacts/pretrain.manifest.json")["content"]["model"]
    assert root == theirs.root()
    found = read(project, "metrics/pretrain.json")
    assert found == {"steps": 0, "parameters": sum(w.numel() for w in ours.values())}


def test_before_and_after_are_scored_on_both_sources(project: Path) -> None:
    perplexity = read(project, "artifacts/evaluate/scores.json")["perplexity"]
    for source in ("domain", "general"):
        assert {"pretrained", "adapted"} <= set(perplexity[source])
    domain = perplexity["domain"]
    assert domain["adapted"]["bits_per_byte"] < domain["pretrained"]["bits_per_byte"]
    before, after = (
        LlamaForCausalLM.from_pretrained(project / folder).lm_head.weight
        for folder in ("model", "artifacts/convert/continued")
    )
    assert before.shape == after.shape
    assert not torch.equal(before, after)


def test_the_later_stages_know_that_nothing_was_trained(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(project)
    assert read(project, "artifacts/audit/audit.json")["replay"] is None
    page = Path("artifacts/report/report.html").read_text()
    assert "taken as it was" in page
    assert "Continued pretraining changed the bits per byte" in page
    with pytest.raises(IntegrityError, match="cannot retrain from step 0"):
        audit(replay=0)
    with pytest.raises(ConfigError, match=r"pretrain took 0 samples, 32 in each of 0 steps$"):
        trace(sample=0, run="pretrain")
    plan(layout="data=2")
    assert "8 of 32 tokens" in capsys.readouterr().out  # of the continued training
    with pytest.raises(ConfigError, match="there is nothing to plan"):
        plan(overrides=["finetune.continued=null"])


def test_what_does_not_fit_leaves_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    before = read(project, "artifacts/pretrain.manifest.json")
    with pytest.raises(ConfigError, match=r"pretrain\.model\.layers = 3: must be 2"):
        pretrain(layout="data=1", overrides=["pretrain.model.layers=3"])
    with pytest.raises(ConfigError, match=r"pretrain\.steps = 0: must be at least 1, or pretrain"):
        pretrain(layout="data=1", overrides=["pretrain.start=null"])
    assert read(project, "artifacts/pretrain.manifest.json") == before
