"""Every family against transformers: logits, gradients, files and settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from megatron_core.config import ExpertsConfig, ModelConfig
from megatron_core.config.model import RotaryScaling
from megatron_core.conversion import HuggingFaceModel
from megatron_core.conversion.families import FAMILIES, bert, megatron_bert
from megatron_core.conversion.family import Family, computed, example
from megatron_core.conversion.folder import read_settings
from megatron_core.errors import ReforgeError
from megatron_core.model import (
    LanguageModel,
    Place,
    Segments,
    load_parameters,
    parameter_shards,
)
from tests.peers import in_double

# What models of a family may differ in; a family that has not one of them ignores it.
EVERYTHING: dict[str, Any] = {
    "tied_embeddings": False,
    "kv_heads": 1,
    "head_width": 12,
    "window": 7,
    "attention_bias": "all",
    "ffn_bias": True,
    "activation": "gelu",
    "norm_epsilon": 0.3,
    "rope_theta": 500.0,
    "rope_scaling": RotaryScaling(kind="llama3", factor=4.0, original_positions=16),
    "experts": ExpertsConfig(count=4, chosen=3, ffn=24, normalize=False),
    "pooler": True,
}
SCALINGS = {
    "linear": RotaryScaling(kind="linear", factor=3.0),
    "yarn": RotaryScaling(kind="yarn", factor=4.0, original_positions=16),
    "sharp_yarn": RotaryScaling(kind="yarn", factor=4.0, original_positions=16, sharpness=1.5),
}


def members() -> list[Any]:
    """Two models of each family as far from each other as it has them, and ways of scaling."""
    cases = []
    for number, family in enumerate(FAMILIES):
        models = {"plain": example(family), "other": example(family, **EVERYTHING)}
        if number == 0:  # all families share the rule
            models |= {name: example(family, rope_scaling=s) for name, s in SCALINGS.items()}
        cases += [
            pytest.param(family, config, id=f"{family.model_type}-{name}")
            for name, config in models.items()
        ]
    return cases


EVERY_MODEL = pytest.mark.parametrize(("family", "config"), members())
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=[f.model_type for f in FAMILIES])


def transformers_model(family: Family, config: ModelConfig, **changes: Any) -> PreTrainedModel:
    """A model of transformers with weights of which no two could be swapped unnoticed."""
    settings = {**family.write(config), "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}
    theirs = CONFIG_MAPPING[family.model_type].from_dict(settings | changes)
    encoder = AutoModelForPreTraining if config.pooler else AutoModelForMaskedLM
    kind = AutoModelForCausalLM if config.kind == "decoder" else encoder
    # Grouped products have no float64.
    model = kind.from_config(theirs, experts_implementation="eager").eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            draws = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(draws * 0.3 if parameter.ndim > 1 else 1 + 0.3 * draws)
    return model


def tokens(config: ModelConfig) -> Tensor:
    return torch.randint(config.vocabulary, (2, 40), generator=torch.Generator().manual_seed(5))


def ours(folder: Path) -> LanguageModel:
    read = HuggingFaceModel.open(folder)
    model = LanguageModel(read.config)
    load_parameters(model, read.weights)
    return model


@EVERY_MODEL
def test_logits_are_those_of_transformers(
    family: Family, config: ModelConfig, tmp_path: Path
) -> None:
    theirs = transformers_model(family, config)
    theirs.save_pretrained(tmp_path)
    model, inputs = ours(tmp_path), tokens(config)
    assert computed(model.config) == computed(config)
    stored = {n: tuple(t.shape) for n, t in load_file(tmp_path / "model.safetensors").items()}
    links = {link.theirs: link.shape for link in family.links(config)}
    assert stored == links  # names on the disk, not those of state_dict()
    with torch.no_grad():
        expected = theirs(inputs)[0]
        found = model(inputs)
        scale = float(expected.abs().max())
        assert expected.std() > 0.5  # logits of different models would differ by this much
        assert (found - expected).abs().max() < 1e-5 * max(scale, 1)
        with in_double(theirs) as double:
            expected = double(inputs)[0]
        assert expected.dtype == torch.float64
        found = model.double()(inputs)
    assert found.dtype == torch.float64
    assert (found - expected).abs().max() < 1e-10


@pytest.mark.parametrize("family", [bert.FAMILY, megatron_bert.FAMILY], ids=lambda f: f.model_type)
def test_what_is_told_of_pairs_is_what_transformers_tells(family: Family, tmp_path: Path) -> None:
    config = example(family, pooler=True)
    theirs = transformers_model(family, config)
    theirs.save_pretrained(tmp_path)
    theirs, model, inputs = theirs.double(), ours(tmp_path).double(), tokens(config)
    types = (torch.arange(40) >= torch.tensor([[17], [31]])).long()
    place = Place(segments=Segments(types.T, torch.zeros(2, dtype=torch.int64), 1.0))
    with torch.no_grad():
        (hidden,) = model.blocks(model.embed([inputs.T], [place]), [place])
        (hidden,) = model.normed([hidden], [place])
        found = model.pair_scores(hidden, place)
        expected = theirs(inputs, token_type_ids=types)
        assert (found - expected.seq_relationship_logits).abs().max() < 1e-10
        (scores,) = model.scores(hidden, place)
        assert (scores.transpose(0, 1) - expected.prediction_logits).abs().max() < 1e-10
        other = theirs(inputs).seq_relationship_logits  # of one segment
        assert (found - other).abs().max() > 0.01


@EVERY_FAMILY
def test_gradients_are_those_of_transformers(family: Family, tmp_path: Path) -> None:
    config = example(family)
    theirs = transformers_model(family, config)
    theirs.save_pretrained(tmp_path)
    model, inputs = ours(tmp_path).double(), tokens(config)
    weight = torch.randn(
        2, 40, config.vocabulary, generator=torch.Generator().manual_seed(6), dtype=torch.float64
    )
    if model.config.experts is not None:
        experts = model.config.experts.model_copy(update={"balance_loss": 0.0, "z_loss": 0.0})
        for block in model.layers.values():
            block.ffn.config = experts
    (model(inputs) * weight).sum().backward()
    with in_double(theirs) as double:
        (double(inputs).logits * weight).sum().backward()
    gradients = {}
    for shard in parameter_shards(model):
        name = model.tied.get(shard.place.tensor, shard.place.tensor)
        gradients[name] = gradients.get(name, 0) + shard.parameter.grad
    with torch.no_grad():  # saved, their gradients get the names that their weights have
        for parameter in theirs.parameters():
            parameter.copy_(
                torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            )
    theirs.save_pretrained(tmp_path / "gradients")
    files = {
        name: tensor
        for file in (tmp_path / "gradients").glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }
    for link in HuggingFaceModel.open(tmp_path).links:
        for name, expected in link.split(files[link.theirs]).items():
            difference = (gradients[name] - expected).abs().max()
            assert difference < 1e-9 * max(1, float(expected.abs().max())), name


@EVERY_FAMILY
def test_every_setting_of_transformers_is_spoken_for(family: Family) -> None:
    theirs = CONFIG_MAPPING[family.model_type]()
    other = type(theirs).__mro__[1]()
    known = {
        *(name for rule in family.rules for name in rule.reads),
        *family.training, *family.unused,
        "use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "model_type",
    }  # fmt: skip
    known |= {theirs.attribute_map.get(name, name) for name in known}
    assert set(theirs.to_dict()) - set(other.to_dict()) - known == set()


@EVERY_MODEL
def test_what_is_written_reads_back(family: Family, config: ModelConfig) -> None:
    settings = json.loads(json.dumps(family.write(config)))
    read_family, read = read_settings(settings, "config.json")
    assert read_family is family
    assert computed(read) == computed(config)
    assert family.differences(config) == []


def settings_of(kind: str, **changes: Any) -> dict[str, Any]:
    family = next(f for f in FAMILIES if f.model_type == kind)
    return {**family.write(example(family)), **changes}


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("llama", {"model_type": "gemma"}, "model_type is 'gemma'"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantized"),
        ("llama", {"vocab_size": None}, "vocab_size"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            r"rope_parameters.rope_type is 'dynamic'",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            r"partial_rotary_factor is 0\.5",
        ),
        (
            "llama",
            {"rope_parameters": {
                "rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "beta_fast": 8}},
            "beta_fast is 8",
        ),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1,
             "layer_types": ["full_attention", "sliding_attention"]},
            "every layer must have the window",
        ),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu'"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("megatron-bert", {"is_decoder": True}, "is_decoder is True"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "mlp_only_layers"),
        ("olmoe", {"clip_qkv": 8.0}, r"clip_qkv is 8\.0"),
    ],
)  # fmt: skip
def test_what_our_model_has_not_is_refused_by_name(
    model_type: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ReforgeError, match=message):
        read_settings(settings_of(model_type, **changes), "config.json")


def test_a_window_of_some_layers_that_is_switched_off_is_none() -> None:
    settings = settings_of("qwen2", use_sliding_window=False, sliding_window=8)
    del settings["layer_types"]
    assert read_settings(settings, "config.json")[1].window is None


def test_settings_of_older_libraries_are_read() -> None:
    settings = settings_of("llama")
    for name in ("rope_parameters", "rope_scaling", "head_dim", "num_key_value_heads"):
        settings.pop(name, None)
    settings |= {
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    }  # fmt: skip
    _, config = read_settings(settings, "config.json")
    assert config.kv_heads == config.heads
    assert config.rope_theta == 500_000.0
    assert config.rope_scaling == RotaryScaling(kind="llama3", factor=8.0, original_positions=16)
