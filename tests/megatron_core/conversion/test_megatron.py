"""Megatron-Core's distributed checkpoints: there and back, and stock Megatron-Core itself."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from megatron_core.config import ConvertConfig, ExpertsConfig, ModelConfig
from megatron_core.conversion import MegatronModel, export_megatron
from megatron_core.errors import IntegrityError, ReforgeError
from megatron_core.model import LanguageModel
from tests.models import random_decoder, small_config, stored_weights

MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "untied": {"tied_embeddings": False, "rope_theta": 500.0},
    "gpt": {
        "kv_heads": 4, "norm": "layer", "activation": "gelu_tanh", "attention_bias": "all",
        "ffn_bias": True, "position_embedding": "learned",
    },
    "qwen2": {"attention_bias": "input"},
    "qwen3": {"query_key_norm": "head", "head_width": 12},
    "mixtral": {"experts": ExpertsConfig(count=4, chosen=2, ffn=24)},
}  # fmt: skip
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)


def export(model: LanguageModel, folder: Path, **settings: Any) -> dict[str, Any]:
    return export_megatron(
        stored_weights(model), model.config, None, folder, ConvertConfig(**settings),
        checkpoint="root",
    )  # fmt: skip


@EVERY_MODEL
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_there_and_back(name: str, dtype: str, tmp_path: Path) -> None:
    model = random_decoder(small_config(**MODELS[name]))
    certificate = export(model, tmp_path, dtype=dtype)
    read = MegatronModel.open(tmp_path)
    assert read.config == model.config
    weights = stored_weights(model)
    assert set(read.weights) == set(weights)
    for tensor, expected in weights.items():
        assert torch.equal(read.weights[tensor], expected.to(getattr(torch, dtype)).float())
    assert certificate["parameters"] == sum(tensor.numel() for tensor in weights.values())


def test_the_layout_of_the_tensors(tmp_path: Path) -> None:
    model = random_decoder(small_config())
    export(model, tmp_path)
    weights = stored_weights(model)
    names = {
        "embedding.word_embeddings.weight": (384, 32),  # 300 padded to a multiple of 128
        "decoder.layers.self_attention.linear_qkv.weight": (2, 64, 32),
        "decoder.layers.mlp.linear_fc1.weight": (2, 96, 32),
        "decoder.layers.mlp.linear_fc1.layer_norm_weight": (2, 32),
    }
    state = {name: torch.full(shape, torch.nan) for name, shape in names.items()}
    dcp.load(state, checkpoint_id=tmp_path / "iter_0000001", no_dist=True)
    words = state["embedding.word_embeddings.weight"]
    assert torch.equal(words[:300], weights["embedding.weight"])
    assert not words[300:].any()
    query, key, value = (
        weights[f"layers.1.attention.{n}.weight"] for n in ("query", "key", "value")
    )
    by_group = torch.cat([query[:16], key[:8], value[:8], query[16:], key[8:], value[8:]])
    assert torch.equal(state["decoder.layers.self_attention.linear_qkv.weight"][1], by_group)
    inner = torch.cat([weights["layers.0.ffn.gate.weight"], weights["layers.0.ffn.up.weight"]])
    assert torch.equal(state["decoder.layers.mlp.linear_fc1.weight"][0], inner)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    model = random_decoder(small_config())
    for name in ("a", "b"):
        export(model, tmp_path / name)
    files = sorted(
        p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()
    )
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_place": "change", "query_key_norm": "all"}, "norm_place is 'change'(.|\n)*'all'"),
        ({"attention_bias": "all"}, "ffn_bias False"),
        ({"kind": "encoder", "head_transform": True}, "kind is 'encoder'(.|\n)*head_transform"),
    ],
)
def test_what_it_has_not_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = random_decoder(small_config(**changes))
    with pytest.raises(ReforgeError, match=message):
        export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    export(random_decoder(small_config()), tmp_path)
    settings = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(settings | {"vocabulary": 400, "layers": 3}))
    with pytest.raises(ReforgeError) as caught:
        MegatronModel.open(tmp_path)
    assert "embedding.word_embeddings.weight is [384, 32], not [400, 32]" in str(caught.value)
    assert "linear_qkv.weight is [2, 64, 32], not [3, 64, 32]" in str(caught.value)
    (tmp_path / "model.json").unlink()
    with pytest.raises(ReforgeError, match=r"config\.json of the same model"):
        MegatronModel.open(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(settings))
    (tmp_path / "iter_0000001/.metadata").unlink()
    with pytest.raises(IntegrityError, match="metadata does not exist"):
        MegatronModel.open(tmp_path)


TOKENS = torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stock Megatron-Core made of our export of every model, in one process."""
    if importlib.util.find_spec("megatron") is None:
        pytest.skip("stock Megatron-Core is not installed: pip install megatron-core==0.16.1")
    folder = tmp_path_factory.mktemp("stock")
    (folder / "tokens.json").write_text(json.dumps(TOKENS.tolist()))
    for name, settings in MODELS.items():
        export(random_decoder(small_config(**settings)), folder / name / "ours")
    program = Path(__file__).with_name("stock_megatron.py")
    done = subprocess.run(
        [sys.executable, program, folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@EVERY_MODEL
def test_stock_megatron_core_computes_our_logits_and_saves_our_bits(
    name: str, computed: Path
) -> None:
    model = random_decoder(small_config(**MODELS[name]))
    ours, theirs = computed / name / "ours", computed / name / "theirs"
    with torch.no_grad():
        expected = model(TOKENS)
    logits = torch.load(theirs / "logits.pt", weights_only=True)[..., :300]
    assert expected.std() > 0.5
    assert (expected - logits).abs().max() < 1e-5 * max(1, float(expected.abs().max()))
    shutil.copy(ours / "model.json", theirs / "model.json")
    (theirs / "latest_checkpointed_iteration.txt").write_text("1")
    read = MegatronModel.open(theirs).weights
    for tensor, weight in stored_weights(model).items():
        assert torch.equal(read[tensor], weight)


def test_a_checkpoint_from_elsewhere_needs_the_settings_of_its_model(tmp_path: Path) -> None:
    from megatron_core.conversion.families import llama

    model = random_decoder(small_config())
    export(model, tmp_path)
    (tmp_path / "model.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(llama.FAMILY.write(model.config)))
    read = MegatronModel.open(tmp_path)
    assert isinstance(read.config, ModelConfig)
    assert torch.equal(
        read.weights["final_norm.weight"], stored_weights(model)["final_norm.weight"]
    )
