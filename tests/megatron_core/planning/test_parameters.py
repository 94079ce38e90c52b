"""Sizes and arithmetic: equal to our model's, and to what is published."""

from __future__ import annotations

from importlib.resources import files

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plan import PUBLISHED
from megatron_core.config import ModelConfig
from megatron_core.config.presets import model_names, read_model, read_yaml
from megatron_core.errors import ConfigError
from megatron_core.model import LanguageModel
from megatron_core.planning.flops import forward_flops, published_step_flops, step_flops
from megatron_core.planning.parameters import (
    active_parameters,
    embedding_weights,
    head_weights,
    layer_weights,
    parameters,
)
from tests.models import small_config

EXPERTS = {"count": 4, "chosen": 2, "ffn": 24}
MODELS = [
    small_config(),
    small_config(tied_embeddings=False),
    small_config(layers=3, heads=8, kv_heads=8, ffn=40),
    small_config(kind="encoder", vocabulary=77, hidden=48, head_transform=True, pooler=True),
    small_config(experts=EXPERTS),
]


@pytest.mark.parametrize("config", MODELS, ids=range(len(MODELS)))
def test_parameters_are_those_of_our_model(config: ModelConfig) -> None:
    model = LanguageModel(config)
    names = [name for name, _ in model.named_parameters()]
    total = sum(p.numel() for p in model.parameters())
    if model.tied:
        total -= sum(p.numel() for n, p in model.named_parameters() if n.startswith("head."))
    assert names
    assert parameters(config) == total


def test_ranks_have_all_weights_between_them() -> None:
    a = small_config(experts=EXPERTS, tied_embeddings=False)
    weights = layer_weights(a) * a.layers + embedding_weights(a) + head_weights(a)
    alone = weights.per_rank(tensor=1, expert=1)
    assert alone == parameters(a)
    shared = weights.per_rank(tensor=2, expert=4)
    assert shared == weights.split // 2 + weights.whole + weights.sliced + weights.experts // 8
    # Of four experts, two are met by each token.
    assert active_parameters(a) == parameters(a) - a.layers * 2 * 3 * a.hidden * 24


@pytest.mark.parametrize("config", MODELS[:4], ids=range(4))
def test_flops_are_those_that_torch_counts(config: ModelConfig) -> None:
    model = LanguageModel(config)
    for parameter in model.parameters():
        parameter.data.normal_()
    tokens = torch.zeros(2, 16, dtype=torch.int64)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens)
    a = config
    assert counter.get_total_flops() == 2 * 16 * forward_flops(a, 16)


def test_recomputing_costs_what_is_computed_again() -> None:
    a = small_config()
    none, selective, full = (step_flops(a, 32, r) for r in ("none", "selective", "full"))
    assert none == 3 * forward_flops(a, 32)
    assert selective - none == a.layers * 4 * 32 * a.hidden
    assert full - none == forward_flops(a, 32) - 2 * a.hidden * a.vocabulary


@pytest.mark.parametrize("run", PUBLISHED, ids=lambda run: f"{run.model}-{run.gpus}")
def test_published_parameters(run) -> None:  # type: ignore[no-untyped-def]
    found = parameters(read_model(run.model)) / 1e9
    assert round(found, 1 if run.billions != 530 else -1) == run.billions


# As published, exactly where the checkpoints are public.
PUBLISHED_MODELS = {
    "gpt2": 124_439_808, "gpt2-xl": 1_557_611_200, "gpt3-175b": 175e9, "gpt3-13b": 13.0e9,
    "llama2-7b": 6_738_415_616, "llama3-8b": 8_030_261_248, "llama3-70b": 70_553_706_496,
    "llama3.2-1b": 1_235_814_400, "mistral-7b": 7_241_732_096, "qwen2-7b": 7_615_616_512,
    "qwen3-8b": 8_190_735_360, "smollm2-135m": 134_515_008, "olmo2-7b": 7_298_617_344,
    "mixtral-8x7b": 46_702_792_704, "qwen3-30b-a3b": 30_532_122_624, "olmoe-7b": 6_919_161_856,
    "bert-base": 110_106_428, "gatortron-345m": 345e6, "gatortron-3.9b": 3.9e9,
    "gatortron-8.9b": 8.9e9, "gatortrongpt-5b": 5e9, "gatortrongpt-20b": 20e9,
    "mt-nlg-530b": 530e9,
}  # fmt: skip


@pytest.mark.parametrize(("name", "count"), PUBLISHED_MODELS.items())
def test_parameters_of_published_models(name: str, count: float) -> None:
    found = parameters(read_model(name))
    assert found == count if isinstance(count, int) else found == pytest.approx(count, rel=0.04)


@pytest.mark.parametrize("name", model_names())
def test_every_preset_says_where_it_is_published(name: str) -> None:
    assert len(read_yaml(files("megatron_core.config") / "models", name)["source"]) > 10


def test_mixtral_meets_13_billion_of_its_weights() -> None:
    a = read_model("mixtral-8x7b")
    assert active_parameters(a) == pytest.approx(12.88e9, rel=1e-3)


def test_the_published_formula_is_the_exact_count_with_full_recompute() -> None:
    """Narayanan et al. (2021) count a GPT's products, all of the square of scores, four times."""
    for name in (n for n in model_names() if n.startswith(("gpt-", "gpt3", "mt"))):
        a = read_model(name)
        exact = 8 * 2048 * step_flops(a, 2048, "full")
        assert published_step_flops(a, 8, 2048) == pytest.approx(exact, rel=1e-9)


def test_what_is_wrong_with_a_file_is_named_at_once(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "mine.yaml"
    path.write_text("layers: 0\nhidden: 64\nheads: 0\nfn: 3\n")
    with pytest.raises(ConfigError) as caught:
        read_model(str(path))
    for named in ("layers", "heads", "fn: extra"):
        assert named in str(caught.value)
    with pytest.raises(ConfigError, match=r"there is no lama3-8b; did you mean llama3-8b\?"):
        read_model("lama3-8b")
    with pytest.raises(ConfigError, match=r"missing\.yaml cannot be read"):
        read_model(str(tmp_path / "missing.yaml"))
