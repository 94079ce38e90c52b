"""Exported folders, against transformers and safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BertForPreTraining, GPT2Model

from megatron_core.config import ConvertConfig, ModelConfig
from megatron_core.conversion import (
    HuggingFaceModel,
    export_model,
    find_family,
    hugging_face,
    logit_difference,
)
from megatron_core.conversion.families import FAMILIES, bert, gpt2, llama
from megatron_core.conversion.family import computed, example
from megatron_core.conversion.tensors import rule
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import IntegrityError, ReforgeError
from megatron_core.model import LanguageModel
from tests.models import (
    SENTENCE,
    random_decoder,
    small_config,
    small_tokenizer,
    stored_weights,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer")


def export(
    decoder: LanguageModel, tokenizer: Path | None, output: Path, **settings: object
) -> dict[str, Any]:
    return export_model(
        stored_weights(decoder), decoder.config, tokenizer, output,
        ConvertConfig.model_validate(settings), checkpoint="root",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("family", "config"),
    [
        pytest.param(family, config, id=f"{family.model_type}{'-pooler' * config.pooler}")
        for family in FAMILIES
        for pooler in (False, True)
        if (config := example(family, window=7, pooler=pooler)).pooler == pooler
    ],
)
def test_every_family_goes_there_and_back_to_the_bit(
    family: Any, config: ModelConfig, tmp_path: Path
) -> None:
    model = random_decoder(config)
    weights = stored_weights(model)
    certificate = export(model, None, tmp_path)
    assert certificate["family"] == family.model_type
    assert certificate["max_logit_difference"] < 1e-4
    read = HuggingFaceModel.open(tmp_path)
    assert computed(read.config) == computed(model.config)
    assert set(read.weights) == set(weights)
    assert all(torch.equal(read.weights[name], weights[name]) for name in weights)


def test_the_certificate_tells_what_lies_on_the_disk(tmp_path: Path) -> None:
    model = random_decoder(example(gpt2.FAMILY))
    certificate = export(model, None, tmp_path)
    assert certificate == json.loads((tmp_path / "certificate.json").read_text())
    weights, theirs = stored_weights(model), load_file(tmp_path / "model.safetensors")
    assert {line["theirs"] for line in certificate["tensors"]} == set(theirs)

    def digest(tensor: Tensor) -> str:
        return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()

    for line in certificate["tensors"]:
        assert line["theirs_sha256"] == digest(theirs[line["theirs"]])
        assert line["ours_sha256"] == [digest(weights[name]) for name in line["ours"]]
    assert {name for line in certificate["tensors"] for name in line["ours"]} == set(weights)
    assert certificate["parameters"] == sum(tensor.numel() for tensor in weights.values())
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_tied_head_is_not_stored(tmp_path: Path) -> None:
    export(random_decoder(small_config()), None, tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_are_compared_as_they_are_stored(dtype: str, tmp_path: Path) -> None:
    decoder = random_decoder(small_config())
    certificate = export(decoder, None, tmp_path / "a", dtype=dtype)
    assert certificate["max_logit_difference"] < 1e-3
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype="auto")
    assert model.dtype == getattr(torch, dtype)
    rounded = stored_weights(decoder)["layers.1.ffn.up.weight"].to(model.dtype)
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, rounded)
    read = HuggingFaceModel.open(tmp_path / "a")  # into fp32 nothing is lost
    again = export_model(
        read.weights, read.config, None, tmp_path / "b", ConvertConfig(dtype=dtype),
        checkpoint="root",
    )  # fmt: skip
    assert again == certificate


def test_shards_have_an_index_that_transformers_reads(tmp_path: Path) -> None:
    decoder = random_decoder(small_config())
    whole = export(decoder, None, tmp_path / "whole")
    sharded = export(decoder, None, tmp_path / "sharded", shard_bytes=20_000)
    assert sharded == whole
    index = json.loads((tmp_path / "sharded/model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "sharded").glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"] == {
        "total_parameters": whole["parameters"], "total_size": whole["bytes"],
    }  # fmt: skip
    for name in files:
        held = load_file(tmp_path / "sharded" / name)
        assert len(held) == 1 or sum(t.nbytes for t in held.values()) <= 20_000
    tokens = torch.arange(60)[None]
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / d) for d in ("whole", "sharded")]
    with torch.no_grad():
        assert torch.equal(*(model(tokens).logits for model in models))


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


def test_a_tokenizer_of_another_model_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    decoder = random_decoder(small_config(vocabulary=290))
    with pytest.raises(ReforgeError, match="has ids up to 299, but the model's vocabulary is 290"):
        export(decoder, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
    change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    decoder = random_decoder(small_config())
    weights = stored_weights(decoder)
    change(weights)
    with pytest.raises(ReforgeError, match=message):
        export_model(weights, decoder.config, None, tmp_path, ConvertConfig(), checkpoint="root")


def test_a_model_of_no_family_is_refused_with_what_differs() -> None:
    config = small_config(norm="layer", activation="gelu")
    with pytest.raises(ReforgeError, match=r"no family(.|\n)*norm is 'layer', in llama 'rms'"):
        find_family(config)
    with pytest.raises(ReforgeError, match="no family"):
        find_family(ModelConfig(final_norm=False))


def test_a_model_is_written_as_the_first_family_that_has_it() -> None:
    assert find_family(small_config()).model_type == "llama"
    assert find_family(small_config(window=8)).model_type == "mistral"
    assert find_family(small_config(attention_bias="input")).model_type == "qwen2"
    assert find_family(small_config(query_key_norm="head")).model_type == "qwen3"


def test_a_wrong_name_map_is_caught_by_the_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = "layers.{layer}.ffn."
    wrong = replace(
        llama.FAMILY,
        tensors=(
            *llama.FAMILY.tensors,
            rule(f"{layer}gate", "model.layers.{layer}.mlp.up_proj"),
            rule(f"{layer}up", "model.layers.{layer}.mlp.gate_proj"),
        ),
    )
    monkeypatch.setattr(hugging_face, "FAMILIES", (wrong,))
    monkeypatch.setattr("megatron_core.conversion.folder.FAMILIES", (wrong,))
    with pytest.raises(ReforgeError, match=r"more than convert\.max_logit_difference"):
        export(random_decoder(small_config()), None, tmp_path)


def test_the_comparison_of_logits_can_be_left_out(tmp_path: Path) -> None:
    certificate = export(random_decoder(small_config()), None, tmp_path, compare_logits=False)
    assert certificate["max_logit_difference"] is None
    assert certificate["round_trip"] == "bitwise"


def test_a_changed_weight_shows_in_the_logits(tmp_path: Path) -> None:
    decoder = random_decoder(small_config())
    export(decoder, None, tmp_path)
    weights = {name: tensor.clone() for name, tensor in stored_weights(decoder).items()}
    assert logit_difference(weights, decoder.config, tmp_path) < 1e-4
    weights["layers.1.attention.value.weight"][3, 4] += 0.1
    assert logit_difference(weights, decoder.config, tmp_path) > 1e-3


def test_a_tied_head_that_is_stored_twice_is_read_once_if_it_is_the_same(tmp_path: Path) -> None:
    export(random_decoder(small_config()), None, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, tmp_path / "model.safetensors")
    read = HuggingFaceModel.open(tmp_path)
    assert "head.weight" not in read.weights
    assert read.left_out == ("lm_head.weight",)
    weights["lm_head.weight"][3, 4] += 1e-6
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ReforgeError, match=r"ties lm_head\.weight to .*, but they differ"):
        HuggingFaceModel.open(tmp_path)


def test_names_of_older_files_are_read(tmp_path: Path) -> None:
    """Those of the bare GPT-2, and BERT's gamma and beta beside heads of other tasks."""
    export(random_decoder(example(gpt2.FAMILY)), None, tmp_path / "gpt2")
    expected = dict(HuggingFaceModel.open(tmp_path / "gpt2").weights)
    GPT2Model.from_pretrained(tmp_path / "gpt2").save_pretrained(tmp_path / "bare")
    assert "wte.weight" in load_file(tmp_path / "bare/model.safetensors")
    read = HuggingFaceModel.open(tmp_path / "bare").weights
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())

    export(random_decoder(example(bert.FAMILY)), None, tmp_path / "bert")
    expected = dict(HuggingFaceModel.open(tmp_path / "bert").weights)
    BertForPreTraining.from_pretrained(tmp_path / "bert").save_pretrained(tmp_path / "both")
    file = tmp_path / "both/model.safetensors"
    old = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(old, file)
    both = HuggingFaceModel.open(tmp_path / "both")
    assert {*both.weights} - {*expected} == {
        f"{module}.{kind}" for module in ("pooler", "pair_head") for kind in ("weight", "bias")
    }
    settings = (tmp_path / "both/config.json").read_text()
    settings = settings.replace("BertForPreTraining", "BertForMaskedLM")  # as some say it
    (tmp_path / "both/config.json").write_text(settings)
    model = HuggingFaceModel.open(tmp_path / "both")
    assert {*model.weights} == {*expected}
    for read in (both, model):
        assert all(torch.equal(read.weights[name], tensor) for name, tensor in expected.items())
    assert "cls.seq_relationship.weight" in model.left_out


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    export(random_decoder(small_config()), None, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.0.mlp.bias"] = torch.ones(3)
    weights["model.norm.weight"] = weights["model.norm.weight"].double()
    del weights["model.layers.1.self_attn.k_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ReforgeError) as caught:
        HuggingFaceModel.open(tmp_path)
    for problem in (
        "model.layers.0.mlp.bias is no part of the model",
        "model.layers.1.self_attn.k_proj.weight is missing",
        "model.norm.weight is torch.float64, which fp32 cannot hold exactly",
    ):
        assert problem in str(caught.value)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(IntegrityError, match=r"model\.safetensors is truncated"):
        HuggingFaceModel.open(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings)[:-5])
    with pytest.raises(ReforgeError, match=r"config\.json cannot be read"):
        HuggingFaceModel.open(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ReforgeError, match=r"config\.json does not exist"):
        HuggingFaceModel.open(tmp_path)


def test_pickles_are_refused_with_advice(tmp_path: Path) -> None:
    export(random_decoder(small_config()), None, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ReforgeError, match=r"Python pickles.*safetensors"):
        HuggingFaceModel.open(tmp_path)
