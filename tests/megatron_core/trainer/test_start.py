"""Trained on from a model that exists: its weights to the bit, on any layout, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from megatron_core.config import ConvertConfig, Grid, PretrainConfig
from megatron_core.conversion import export_megatron, export_model
from megatron_core.errors import ConfigError, IntegrityError, ReforgeError
from megatron_core.exchange import ModelFolder, write_model
from megatron_core.model import LanguageModel
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.trainer.assemble import pretraining
from megatron_core.trainer.language import LanguageObjective
from megatron_core.trainer.start import open_start
from tests import plain
from tests.models import random_decoder, small_tokenizer, stored_weights
from tests.recipes import recipe, small_model
from tests.trainings import Trained, train

MODEL = small_model(layers=2)
NO_LOGITS = ConvertConfig(compare_logits=False)


@pytest.fixture(scope="module")
def decoder() -> LanguageModel:
    return random_decoder(MODEL)


@pytest.fixture
def folder(decoder: LanguageModel, tmp_path: Path) -> Path:
    """The model as a Hugging Face folder, two tensors to a file at most."""
    export_model(
        stored_weights(decoder), MODEL, None, tmp_path / "theirs",
        NO_LOGITS.model_copy(update={"shard_bytes": 8192}), checkpoint="root",
    )  # fmt: skip
    return tmp_path / "theirs"


def from_start(start: Path, **changes: object) -> PretrainConfig:
    # Dropout is training's own, so a model without it may be trained on with it.
    settings: dict[str, object] = {"model": small_model(layers=2, dropout=0.1)}
    return recipe(**{"start": str(start)} | settings | changes)


def test_every_format_and_layout_trains_on_to_the_same_bits(
    decoder: LanguageModel, folder: Path, tokens: Path, tmp_path: Path
) -> None:
    weights, megatron, imported = stored_weights(decoder), tmp_path / "m", tmp_path / "imported"
    export_megatron(weights, MODEL, None, megatron, ConvertConfig(), checkpoint="root")
    write_model(ModelFolder.open(folder), None, imported, "reforge", NO_LOGITS)
    found = []
    for name, start, layout in (
        ("a", folder, "data=1"), ("b", megatron, "context=2"),
        ("c", imported, "tensor=2,pipeline=2"),
    ):  # fmt: skip
        assert train(tokens, tmp_path / name, from_start(start), layout)
        found.append(Trained(tmp_path / name))
    for other in found[1:]:
        assert other.divergence(found[0]) is None
        assert other.roots == found[0].roots
    roots = {ModelFolder.open(start).root() for start in (folder, megatron, imported)}
    assert len(roots) == 1


def test_the_curve_is_that_of_a_plain_loop_from_the_same_weights(
    decoder: LanguageModel, folder: Path, tokens: Path, tmp_path: Path
) -> None:
    config = from_start(folder, model=MODEL, steps=3, grid=Grid(data=2, tensor=2))
    with open_mesh(Layout(), "cpu", 1) as mesh:
        trainer = pretraining(config, tokens, {}, tmp_path, mesh)
        trainer.train()
    exact, _ = plain.train(config, LanguageObjective(tokens, config), stored_weights(decoder))
    for line, expected in zip(trainer.run.read_steps(3), exact, strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=2e-6)
        assert line["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-5)


def test_another_model_than_the_recipe_s_is_refused(folder: Path) -> None:
    other = small_model(layers=3, vocabulary=128, tied_embeddings=False, kv_heads=4)
    with pytest.raises(ConfigError) as caught:
        open_start(folder, other, None)
    said = str(caught.value)
    for line in (
        "pretrain.model.layers = 3: must be 2", "pretrain.model.vocabulary = 128: must be 64",
        "pretrain.model.tied_embeddings = False: must be True",
        "pretrain.model.kv_heads = 4: must be 2",
    ):  # fmt: skip
        assert line in said
    assert "hidden" not in said


def test_damaged_folders_are_refused_before_a_run_is_there(
    folder: Path, tokens: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"

    def refused(message: str) -> None:
        kinds = (ReforgeError, IntegrityError)
        with open_mesh(Layout(), "cpu", 1) as mesh, pytest.raises(kinds, match=message):
            pretraining(from_start(folder), tokens, {}, runs, mesh)
        assert not runs.exists()

    shard = sorted(folder.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-4])
    refused(f"{shard.name} is truncated")
    shard.unlink()
    refused(f"lacks {shard.name}, which its index names")
    shard.write_bytes(content)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": "mamba"}))
    refused("model_type is 'mamba'; what can be mapped is llama")
    (folder / "config.json").unlink()
    refused("holds no model")


def test_the_tokenizer_must_be_the_model_s(decoder: LanguageModel, tmp_path: Path) -> None:
    model = small_model(layers=2, vocabulary=300)
    tokenizer = small_tokenizer(tmp_path / "tokenizer")
    export_model(
        stored_weights(random_decoder(model)), model, tokenizer, tmp_path / "theirs", NO_LOGITS,
        checkpoint="root",
    )  # fmt: skip
    assert open_start(tmp_path / "theirs", model, tokenizer).config == model
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    merges = content["model"]["merges"]
    content["model"]["merges"] = [merges[1], merges[0], *merges[2:]]  # the same entries
    (tokenizer / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ReforgeError, match=r"is not the model's in .*, they differ in model: take"):
        open_start(tmp_path / "theirs", model, tokenizer)
    (tmp_path / "theirs" / "tokenizer.json").unlink()
    assert open_start(tmp_path / "theirs", model, tokenizer).tokenizer is None
    small = small_model(layers=2)
    export_model(
        stored_weights(decoder), small, None, tmp_path / "small", NO_LOGITS, checkpoint="root"
    )
    with pytest.raises(ReforgeError, match="ids up to 299, but the model's vocabulary is 64"):
        open_start(tmp_path / "small", small, tokenizer)


def test_a_model_of_a_task_is_no_language_model(tmp_path: Path) -> None:
    from megatron_core.checkpoint import save_checkpoint

    save_checkpoint(
        tmp_path / "step-00000001", {"weights/head": torch.ones(2)}, step=1, run="r",
        model={"kind": "task"}, layout={},
    )  # fmt: skip
    with pytest.raises(ReforgeError, match="holds a model of kind task"):
        ModelFolder.open(tmp_path)
