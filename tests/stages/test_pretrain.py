"""``reforge pretrain`` from a model that exists."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_core.checkpoint import StoredWeights, find_checkpoints
from megatron_core.config import ConvertConfig, load_recipe
from megatron_core.conversion import export_model
from megatron_core.files import write_json
from megatron_core.identity import Manifest, manifest_path, read_manifest
from stages.app import main
from tests.models import random_decoder, small_tokenizer, stored_weights
from tests.trainable import write_trainable

TOKENIZER, TOKENIZE = Path("artifacts/tokenizer"), Path("artifacts/tokenize")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a tokenizer, and beside it a Hugging Face folder with the same one."""
    write_trainable(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "REFORGE_LAYOUT"):
        monkeypatch.delenv(name, raising=False)
    small_tokenizer(tmp_path / TOKENIZER)
    made = _record(TOKENIZER, {}).root
    _record(TOKENIZE, {"tokenizer": made})
    config = load_recipe(Path("params.yaml")).pretrain.model
    export_model(
        stored_weights(random_decoder(config)), config, TOKENIZER, Path("theirs"),
        ConvertConfig(compare_logits=False), checkpoint="root",
    )  # fmt: skip
    return tmp_path


def _record(artifact: Path, inputs: dict[str, str]) -> Manifest:
    record = read_manifest(manifest_path(TOKENIZE)).record
    manifest = Manifest.of(artifact, stage=artifact.name, inputs=inputs, recipe={}, record=record)
    manifest.write(manifest_path(artifact))
    return manifest


def pretrain(monkeypatch: pytest.MonkeyPatch, capsys: Any, *settings: str) -> tuple[int, str]:
    options = [part for setting in settings for part in ("--set", f"pretrain.{setting}")]
    monkeypatch.setattr(sys, "argv", ["reforge", "pretrain", "--layout", "data=1", *options])
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    return int(code), " ".join(capsys.readouterr().err.split())


def test_it_begins_with_the_weights_that_start_names(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    # With a rate this small, two steps leave all weights where they were, but for a rounding.
    still = ("steps=2", "schedule.warmup_steps=1", "optimizer.learning_rate=1e-12")
    code, said = pretrain(monkeypatch, capsys, "start=theirs", *still)
    assert code == 0, said
    (path,) = find_checkpoints(Path("artifacts/pretrain/checkpoints"))
    expected = stored_weights(random_decoder(load_recipe(Path("params.yaml")).pretrain.model))
    trained = StoredWeights(path)
    assert trained.keys() == expected.keys()
    for name, weight in expected.items():
        assert (trained[name] - weight).abs().max() < 1e-6, name


def test_what_does_not_fit_is_said_before_a_run_is_there(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def refused(code: int, message: str, *settings: str) -> None:
        found, said = pretrain(monkeypatch, capsys, *settings)
        assert (found, message in said) == (code, True), said
        assert not Path("runs").exists()
        assert not Path("artifacts/pretrain").exists()

    refused(1, "nowhere holds no model: name a checkpoint", "start=nowhere")
    refused(2, "pretrain.model.layers = 3: must be 2", "start=theirs", "model.layers=3")
    small_tokenizer(project / "theirs")
    (project / "theirs" / "tokenizer.json").write_text(
        (TOKENIZER / "tokenizer.json").read_text().replace("<|endoftext|>", "<|end|>")
    )
    refused(1, "is not the model's in theirs, they differ in added_tokens", "start=theirs")
    write_json(TOKENIZER / "tokenizer_config.json", {})
    _record(TOKENIZER, {})
    refused(1, "was not made with artifacts/tokenizer: run `reforge tokenize`", "start=theirs")
