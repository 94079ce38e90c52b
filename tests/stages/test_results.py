"""``reforge convert`` and ``reforge evaluate``: from checkpoints to scores."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from megatron_core.checkpoint import save_weights
from megatron_core.config import CanariesConfig, SoftPromptConfig
from megatron_core.data.canaries import Canaries
from megatron_core.data.documents import write_shard
from megatron_core.data.indexed import IndexedWriter
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import ConfigError, ReforgeError
from megatron_core.identity import manifest_path, read_manifest
from megatron_core.model import add_adapter
from stages.convert import convert
from stages.evaluate import evaluate
from stages.finetune import finetune
from stages.generate import generate
from stages.run import stage_run
from stages.trace import _config
from tests.models import (
    documents,
    random_decoder,
    small_config,
    small_tokenizer,
    stored_weights,
    write_checkpoint,
)

RECIPE = """
ingest: {sources: {notes: {kind: jsonl, path: none.jsonl}, icd10cm: {kind: icd10cm},
  hpo: {kind: hpo}}}
tokenizer: {vocabulary: 300}
convert: {max_logit_difference: 0.01}
evaluate: {documents_per_source: 4, questions: 8, question_source: hpo, context: 32, threads: 1,
  generation: {tokens: 5, prompts: [A heart]}}
"""
MODELS = {"unigram", "bigram", "trigram", "pretrained", "adapted"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which all that the stages read is made; its weights are random."""
    monkeypatch.chdir(tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text(RECIPE)
    run = {"params": params, "overrides": None, "dry_run": False}
    heldout = [*documents("hpo", range(12)), *documents("notes", range(3))]
    with stage_run("decontaminate", **run) as stage:
        write_shard(stage.output / "heldout" / "00000.jsonl", heldout)
    with stage_run("tokenizer", **run) as stage:
        tokenizer = Tokenizer.load(small_tokenizer(stage.output))
    with stage_run("tokenize", **run) as stage:
        for split, rows in (("train", range(20, 60)), ("heldout", range(3))):
            prefix = stage.output / split / "notes_text_document"
            with IndexedWriter(prefix, np.uint16) as writer:
                for document in documents("notes", rows):
                    writer.write([*tokenizer.encode(document.text), tokenizer.end_of_document])
        Canaries(CanariesConfig(source="notes", count=2)).write(stage.output)
    with stage_run("pretrain", **run) as stage:
        write_checkpoint(stage.output / "checkpoints", random_decoder(small_config(), 1))
    with stage_run("finetune", **run) as stage:
        decoder = random_decoder(small_config(), 2)
        write_checkpoint(stage.output / "continued" / "checkpoints", decoder)
    return tmp_path


def test_from_checkpoints_to_scores(project: Path) -> None:
    convert()
    metrics = json.loads((project / "metrics/convert.json").read_text())
    assert set(metrics) == {"pretrain", "continued"}
    evaluate()
    scores = json.loads((project / "artifacts/evaluate/scores.json").read_text())
    assert set(scores["perplexity"]) == {"hpo", "notes", "all"}
    assert all(set(found) == MODELS for found in scores["perplexity"].values())
    assert set(scores["multiple_choice"]) == {*MODELS, "chance"}
    assert scores["documents"] == {"hpo": 4, "notes": 3}
    assert scores["questions"] == 8
    assert "memorization" not in scores
    assert scores["agreement"] == {
        model: {"identical": True, "log_likelihood": 0.0} for model in ("pretrained", "adapted")
    }
    check_units(project, scores)
    check_roots(project, scores)
    lines = json.loads((project / "artifacts/evaluate/generations.json").read_text())
    assert [line["model"] for line in lines] == ["pretrained", "adapted"]
    metrics = json.loads((project / "metrics/evaluate.json").read_text())
    assert metrics["perplexity"] == scores["perplexity"]
    for path in (project / "artifacts/evaluate").rglob("*.json*"):
        assert str(project) not in path.read_text()
    root = read_manifest(manifest_path(project / "artifacts/evaluate")).root
    evaluate()
    assert read_manifest(manifest_path(project / "artifacts/evaluate")).root == root


TASKS = """
finetune:
  continued: null
  tasks:
    chat: {kind: instructions, start: pretrain, examples: {train: none.jsonl}, repeats: 2}
    preferred: {kind: preferences, examples: {train: none.jsonl}, adapter: {kind: lora}}
    short: {kind: instructions, examples: {train: none.jsonl},
      adapter: {kind: soft_prompt, tokens: 5}}
"""


def write_prompted(folder: Path) -> str:
    """The whole model that training a soft prompt leaves; returns its root."""
    config, adapter = small_config(), SoftPromptConfig(tokens=5)
    model = random_decoder(config, 5)
    add_adapter(model, adapter)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.soft_prompt.weight, std=3.0)  # type: ignore[union-attr]
    weights = stored_weights(model)
    description = {
        "kind": "decoder", "config": config.model_dump(), "adapter": adapter.model_dump()
    }  # fmt: skip
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    path = folder / "whole/checkpoints/step-00000000"
    return save_weights(path, weights, shapes, run="test", model=description).root


def test_every_language_model_that_tasks_leave(project: Path) -> None:
    """Of each seed; merged; and with a soft prompt, of which nothing is exported."""
    (project / "params.yaml").write_text(RECIPE + TASKS)
    with stage_run(
        "finetune", params=project / "params.yaml", overrides=None, dry_run=False
    ) as stage:
        for seed, folder in enumerate(("chat-1", "chat-2", "preferred/whole"), 3):
            decoder = random_decoder(small_config(), seed)
            write_checkpoint(stage.output / folder / "checkpoints", decoder)
        root = write_prompted(stage.output / "short")
    convert()
    exported = {"pretrain", "chat-1", "chat-2", "preferred"}
    assert set(json.loads((project / "metrics/convert.json").read_text())) == exported
    assert {path.name for path in (project / "artifacts/convert").iterdir()} == exported
    evaluate()
    scores = json.loads((project / "artifacts/evaluate/scores.json").read_text())
    models = {"pretrained", "chat-1", "chat-2", "preferred"}
    assert set(scores["agreement"]) == models
    for found in scores["perplexity"].values():
        assert set(found) == {"unigram", "bigram", "trigram", *models, "short"}
    assert scores["roots"]["short"] == root
    bits = [scores["perplexity"]["all"][name]["bits_per_byte"] for name in (*models, "short")]
    assert len(set(bits)) == 5
    with pytest.raises(ReforgeError, match=r"several last models; name one with --model: .*chat-1"):
        generate(["A heart"])


def test_a_recipe_may_only_pretrain(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "params.yaml").write_text(RECIPE + "finetune: {continued: null}")
    finetune(layout="data=1")
    assert not any((project / "artifacts/finetune").iterdir())
    convert()
    assert {path.name for path in (project / "artifacts/convert").iterdir()} == {"pretrain"}
    evaluate()
    scores = json.loads((project / "artifacts/evaluate/scores.json").read_text())
    assert set(scores["perplexity"]["all"]) == MODELS - {"adapted"}
    capsys.readouterr()
    generate(["A heart"], tokens=3, temperature=0)
    last = capsys.readouterr().out
    generate(["A heart"], tokens=3, temperature=0, model=project / "artifacts/pretrain")
    assert capsys.readouterr().out == last
    with pytest.raises(ConfigError, match="has no continued pretraining"):
        _config(
            "finetune.continued",
            {"finetune": read_manifest(manifest_path(project / "artifacts/finetune"))},
        )


def test_the_last_model_is_that_of_the_last_task(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`a` begins with `z`, so it comes after it whatever the names."""
    (project / "params.yaml").write_text(
        RECIPE + "finetune: {tasks: {z: {kind: instructions, examples: {train: x}}, "
        "a: {kind: preferences, start: z, examples: {train: x}}}}"
    )
    with stage_run(
        "finetune", params=project / "params.yaml", overrides=None, dry_run=False
    ) as stage:
        for seed, folder in enumerate(("continued", "z", "a"), 3):
            decoder = random_decoder(small_config(), seed)
            write_checkpoint(stage.output / folder / "checkpoints", decoder)
    said = {}
    for name in ("continued", "z", "a", None):
        model = name and project / "artifacts/finetune" / name
        generate(["A heart"], tokens=8, temperature=0, model=model)
        said[name] = capsys.readouterr().out
    assert said[None] == said["a"]
    assert len(set(said.values())) == 3


def test_a_recipe_may_ask_what_is_remembered(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert()
    asked = "{alternatives: 15, documents: 3, prefix: 8, continuation: 8, samples: 1}"
    overrides = ["evaluate.scorers=[native]", f"evaluate.memorization={asked}"]
    evaluate(overrides=overrides)
    scores = json.loads((project / "artifacts/evaluate/scores.json").read_text())
    metrics = json.loads((project / "metrics/evaluate.json").read_text())["memorization"]
    assert set(scores["memorization"]) == set(metrics) == {"pretrained", "adapted"}
    for model, of in scores["memorization"].items():
        assert of["overlaps"]["train_likeliest"]["texts"] == 3
        assert of["overlaps"]["free"]["texts"] == 2
        exposures = {str(g["copies"]): g["exposure"] for g in of["canaries"]["groups"]}
        assert of["canaries"]["alternatives"] == 15
        assert metrics[model]["exposure"] == exposures
        assert set(exposures) == {"0", "1", "4", "16"}
    assert "pretrained, exposure in bits" in capsys.readouterr().err


def test_a_recipe_may_ask_no_questions(project: Path) -> None:
    convert()
    evaluate(overrides=["evaluate.question_source=null"])
    scores = json.loads((project / "artifacts/evaluate/scores.json").read_text())
    assert set(scores["perplexity"]["all"]) == MODELS
    assert scores["questions"] == 0
    assert scores["multiple_choice"] == {}


def test_tasks_by_name_and_only_one_scorer(project: Path) -> None:
    """A task that comes with the recipe, on our model alone; then refusals."""
    convert()
    folder = project / "tasks"
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"text": "A heart", "answer": 0}\n' * 5)
    (folder / "organ.yaml").write_text(
        "{task: organ, dataset_path: json, test_split: test, output_type: multiple_choice, "
        "dataset_kwargs: {data_files: {test: tasks/rows.jsonl}}, doc_to_text: '{{text}}', "
        "doc_to_target: answer, doc_to_choice: [a, b], metric_list: [{metric: acc}]}"
    )
    named = ["evaluate.include=tasks", "evaluate.scorers=[native]"]
    evaluate(overrides=[*named, "evaluate.tasks=[organ]"])
    scores = json.loads((project / "artifacts/evaluate/scores.json").read_text())
    assert scores["agreement"] == {}
    found = scores["tasks"]["organ"]
    assert set(found["models"]) == {"pretrained", "adapted"}
    assert found["chance"] == 0.5
    assert found["models"]["adapted"]["acc"]["kind"] == "exact"
    assert len(found["data"]["documents"]) == 64
    metrics = json.loads((project / "metrics/evaluate.json").read_text())
    assert set(metrics["tasks"]["organ"]["adapted"]["acc"]) == {"value", "low", "high"}
    root = read_manifest(manifest_path(project / "artifacts/evaluate")).root
    # A task that is wrong leaves the last scores as they are.
    (folder / "organ.yaml").write_text(
        (folder / "organ.yaml").read_text().replace("tasks/rows", "tasks/none")
    )
    with pytest.raises(ReforgeError, match="nothing is fetched"):
        evaluate(overrides=[*named, "evaluate.tasks=[organ]"])
    with pytest.raises(ConfigError, match="data and tensor ranks only"):
        evaluate(layout="pipeline=2")
    assert read_manifest(manifest_path(project / "artifacts/evaluate")).root == root


def check_units(project: Path, scores: dict[str, dict]) -> None:
    """All rows are of the same text, and the models' are those of lm-eval."""
    tokenizer = Tokenizer.load(project / "artifacts/tokenizer")
    total = 0
    losses = dict.fromkeys(MODELS, 0.0)
    for source in scores["documents"]:
        path = project / f"artifacts/evaluate/tasks/perplexity_{source}.jsonl"
        texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        size = sum(len(text.encode()) for text in texts)
        tokens = sum(len(tokenizer.encode(text)) for text in texts)
        words = sum(len(text.split()) for text in texts)
        for model, found in scores["perplexity"][source].items():
            loss = found["bits_per_byte"] * size * math.log(2)
            assert math.log(found["token_perplexity"]) * tokens == pytest.approx(loss)
            assert math.log(found["word_perplexity"]) * words == pytest.approx(loss)
            losses[model] += loss
        for model, raw in scores["lm_eval"].items():
            ours = scores["perplexity"][source][model]
            for unit in ("bits_per_byte", "word_perplexity"):
                assert raw[source][unit] == pytest.approx(ours[unit], rel=1e-12)
        total += size
    for model, found in scores["perplexity"]["all"].items():
        assert found["bits_per_byte"] == pytest.approx(losses[model] / total / math.log(2))
    for model, raw in scores["lm_eval"].items():
        found = scores["multiple_choice"][model]
        right = found["accuracy"] * 8
        assert (found["accuracy"], found["accuracy_norm"]) == tuple(raw["questions"].values())
        exact = binomtest(round(right), 8).proportion_ci(0.95, method="exact")
        assert (found["accuracy_low"], found["accuracy_high"]) == pytest.approx(tuple(exact))


def check_roots(project: Path, scores: dict[str, dict]) -> None:
    for model, folder in (
        ("pretrained", "pretrain/checkpoints"),
        ("adapted", "finetune/continued/checkpoints"),
    ):
        path = project / "artifacts" / folder / "step-00000001/checkpoint.json"
        assert scores["roots"][model] == json.loads(path.read_text())["root"]
    tokenizer = read_manifest(manifest_path(project / "artifacts/tokenizer"))
    assert scores["roots"]["tokenizer"] == tokenizer.root
    assert len(scores["roots"]["tasks"]) == 64


def test_another_tokenizer_is_refused(project: Path) -> None:
    convert()
    path = project / "artifacts/convert/pretrain/tokenizer.json"
    settings = json.loads(path.read_text())
    settings["model"]["merges"] = []
    path.write_text(json.dumps(settings).ljust(path.stat().st_size))
    record(project / "artifacts/convert")
    with pytest.raises(ReforgeError, match="gives other tokens than the pipeline's"):
        evaluate()
    assert not (project / "artifacts/evaluate").exists()


def record(artifact: Path) -> None:
    """Make the manifest fit the files, so that only the stage's own check can object."""
    path = manifest_path(artifact)
    manifest = json.loads(path.read_text())
    for name, entry in manifest["files"].items():
        entry["size"] = (artifact / name).stat().st_size
    path.write_text(json.dumps(manifest))


def test_a_damaged_checkpoint_is_not_passed_over(project: Path) -> None:
    folder = project / "artifacts/pretrain/checkpoints/step-00000001"
    file = next((folder / "weights").glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ReforgeError, match="was altered"):
        convert()
