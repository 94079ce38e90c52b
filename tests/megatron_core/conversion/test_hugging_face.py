"""Exported folders, against transformers and safetensors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from megatron_core.config import ConvertConfig, ModelConfig
from megatron_core.conversion import export_decoder, import_decoder, llama, logit_difference
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import ReforgeError
from megatron_core.model import LanguageModel, load_parameters
from tests.models import (
    SENTENCE,
    random_decoder,
    small_config,
    small_tokenizer,
    stored_weights,
)

VARIANTS = {
    "grouped": {},
    "untied": {"tied_embeddings": False},
    "one_kv_head": {"kv_heads": 1},
    "all_kv_heads": {"kv_heads": 4},
    "other_rotary_base": {"rope_theta": 500.0},
    "large_epsilon": {"norm_epsilon": 0.5},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer")


def export(
    decoder: LanguageModel, tokenizer: Path, output: Path, **settings: object
) -> dict[str, object]:
    return export_decoder(
        stored_weights(decoder), decoder.config, tokenizer, output,
        ConvertConfig.model_validate(settings), checkpoint="root",
    )  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_computes_our_logits(variant: str, tokenizer: Path, tmp_path: Path) -> None:
    decoder = random_decoder(small_config(**VARIANTS[variant]))
    certificate = export(decoder, tokenizer, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs) is LlamaForCausalLM
    tokens = torch.randint(300, (3, 50), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        ours, found = decoder(tokens), theirs(tokens).logits
    assert ours.std() > 1  # logits of different models would differ by this much
    assert (ours - found).abs().max() < 1e-5 * ours.abs().max()
    assert certificate["max_logit_difference"] < 1e-5 * ours.abs().max()
    assert certificate["parameters"] == sum(p.numel() for p in theirs.parameters())


def test_the_bits_are_ours(tokenizer: Path, tmp_path: Path) -> None:
    decoder = random_decoder(small_config(tied_embeddings=False))
    certificate = export(decoder, tokenizer, tmp_path)
    weights = stored_weights(decoder)
    theirs = load_file(tmp_path / "model.safetensors")
    assert {line["theirs"] for line in certificate["tensors"]} == set(theirs)
    for line in certificate["tensors"]:
        assert torch.equal(weights[line["ours"]], theirs[line["theirs"]])
        digest = hashlib.sha256(theirs[line["theirs"]].numpy().tobytes()).hexdigest()
        assert line["ours_sha256"] == line["theirs_sha256"] == digest
    config, read = import_decoder(tmp_path)
    assert config == decoder.config
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_tied_head_is_not_stored(tokenizer: Path, tmp_path: Path) -> None:
    export(random_decoder(small_config()), tokenizer, tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_bfloat16_is_compared_as_it_is_stored(tokenizer: Path, tmp_path: Path) -> None:
    decoder = random_decoder(small_config())
    certificate = export(decoder, tokenizer, tmp_path, dtype="bfloat16")
    assert certificate["max_logit_difference"] < 1e-3
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert model.dtype == torch.bfloat16
    rounded = stored_weights(decoder)["layers.1.ffn.up.weight"].bfloat16()
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, rounded)


def test_the_same_weights_give_the_same_bytes(tokenizer: Path, tmp_path: Path) -> None:
    decoder = random_decoder(small_config())
    for name in ("a", "b"):
        export(decoder, tokenizer, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [
        "certificate.json", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert str(tmp_path).encode() not in (tmp_path / "a" / name).read_bytes()


def test_transformers_tokenizes_as_we_do(tokenizer: Path, tmp_path: Path) -> None:
    export(random_decoder(small_config()), tokenizer, tmp_path)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tokenizer)
    for text in (SENTENCE, "  Äther\n\n日本 <|endoftext|>", ""):
        assert theirs(text)["input_ids"] == ours.encode(text)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.eos_token_id == model.config.eos_token_id == ours.end_of_document
    assert theirs.bos_token_id == model.config.bos_token_id == ours.end_of_document
    assert model.generation_config.pad_token_id == theirs.pad_token_id == ours.end_of_document
    assert model.model.embed_tokens.padding_idx is None  # else this row would stop learning


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("layers.1.ffn.up.weight"), "layers.1.ffn.up.weight is missing"),
        (lambda w: w.update({"layers.0.bias": torch.ones(2)}), "layers.0.bias is no part"),
        (
            lambda w: w.update({"layers.0.attention.key.weight": torch.ones(32, 32)}),
            r"layers.0.attention.key.weight is \[32, 32\], not \[16, 32\]",
        ),
    ],
)
def test_a_tensor_without_counterpart_is_named(
    change: object, message: str, tokenizer: Path, tmp_path: Path
) -> None:
    decoder = random_decoder(small_config())
    weights = stored_weights(decoder)
    change(weights)
    with pytest.raises(ReforgeError, match=message):
        export_decoder(
            weights, decoder.config, tokenizer, tmp_path, ConvertConfig(), checkpoint="root"
        )


def test_a_wrong_name_map_is_caught_by_the_logits(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = dict(llama._LAYER_NAMES)
    names["ffn.gate"], names["ffn.up"] = names["ffn.up"], names["ffn.gate"]
    monkeypatch.setattr(llama, "_LAYER_NAMES", names)
    with pytest.raises(ReforgeError, match=r"more than convert\.max_logit_difference"):
        export(random_decoder(small_config()), tokenizer, tmp_path)


def test_a_changed_weight_shows_in_the_logits(tokenizer: Path, tmp_path: Path) -> None:
    decoder = random_decoder(small_config())
    export(decoder, tokenizer, tmp_path)
    weights = {name: tensor.clone() for name, tensor in stored_weights(decoder).items()}
    assert logit_difference(weights, decoder.config, tmp_path) < 1e-4
    weights["layers.1.attention.value.weight"][3, 4] += 0.1
    assert logit_difference(weights, decoder.config, tmp_path) > 1e-3


def test_a_folder_of_transformers_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            rms_norm_eps=1e-4, rope_parameters={"rope_type": "default", "rope_theta": 700.0},
            initializer_range=0.3,
        )
    )  # fmt: skip
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    config, weights = import_decoder(tmp_path)
    ours = LanguageModel(config)
    load_parameters(ours, weights)
    tokens = torch.arange(60)[None]
    with torch.no_grad():
        assert torch.allclose(ours(tokens), theirs(tokens).logits, atol=1e-5)


def test_a_tied_head_that_is_stored_twice_is_read_once(tokenizer: Path, tmp_path: Path) -> None:
    export(random_decoder(small_config()), tokenizer, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, tmp_path / "model.safetensors")
    _, read = import_decoder(tmp_path)
    assert "head.weight" not in read


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("model_type", "mistral"),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("head_dim", 16),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1.0}),
        ("vocab_size", None),
    ],
)
def test_what_our_decoder_has_not_is_refused(setting: str, value: object) -> None:
    settings = llama.to_llama(ModelConfig())
    assert llama.from_llama(settings, "config.json") == ModelConfig()
    with pytest.raises(ReforgeError, match=r"config\.json"):
        llama.from_llama(settings | {setting: value}, "config.json")


def test_damaged_folders_are_named(tokenizer: Path, tmp_path: Path) -> None:
    export(random_decoder(small_config()), tokenizer, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.0.mlp.bias"] = torch.ones(3)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ReforgeError, match=r"model\.layers\.0\.mlp\.bias is no part"):
        import_decoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ReforgeError, match=r"model\.safetensors cannot be read"):
        import_decoder(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings)[:-5])
    with pytest.raises(ReforgeError, match=r"config\.json cannot be read"):
        import_decoder(tmp_path)
