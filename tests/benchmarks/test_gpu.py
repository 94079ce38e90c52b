"""What can be known of a GPU's measurement without one."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks import gpu
from megatron_core.config import BatchSizes, ModelConfig, PretrainConfig
from megatron_core.planning.hardware import Hardware
from megatron_core.planning.presets import read_preset

H200 = read_preset(Hardware, "hardware", "h200")
MODEL = ModelConfig(vocabulary=96, positions=32, layers=2, hidden=32, heads=4, kv_heads=4, ffn=48)
CONFIG = PretrainConfig(
    model=MODEL, sequence_length=32, batch=BatchSizes(sequences=4, microbatch=2), precision="bf16"
)


def test_it_refuses_to_run_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as refused:
        gpu.run(gpu.arguments([]))
    for part in ("NVIDIA GPU", "CUDA build of torch", torch.__version__, "benchmarks.train"):
        assert part in str(refused.value)


def test_an_unknown_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit, match=r"llama3\.2-1b"):
        gpu.run(gpu.arguments(["--model", "llama3.2-1"]))


def test_the_recipe_is_of_a_billion_parameters_in_halves() -> None:
    config = gpu.recipe(gpu.arguments(["--sequences", "4", "--microbatch", "1"]))
    assert (config.device, config.precision, config.sequence_length) == ("cuda", "bf16", 4096)
    assert (config.batch.sequences, config.batch.microbatch) == (4, 1)
    assert config.model.rope_scaling is None  # plain models have no such
    assert config.model.positions == 4096
    assert 1e9 < gpu.parameters(config.model) < 3e9


def test_mfu_is_six_flops_for_each_weight_and_those_of_attention() -> None:
    """Kaplan et al. (2020): 6 N, beside 12 layers × length × width; norms multiply nothing."""
    weights = 2 * (4 * 32 * 32 + 3 * 32 * 48) + 32 * 96
    flops = 4 * 32 * (6 * weights + 12 * 2 * 32 * 32)
    assert gpu.mfu(0.5, CONFIG, 1e9) == pytest.approx(flops / 0.5 / 1e9)


def test_the_peak_is_that_of_the_data_sheet() -> None:
    assert gpu.peak_of("Reforge", H200, CONFIG) == 989e12
    assert gpu.peak_of("Reforge, FP8", H200, CONFIG) == pytest.approx(1979e12)


def test_trainings_are_measured_alike_on_any_device() -> None:
    found = {name: gpu.measure(name, CONFIG, 2) for name in (gpu.GRID_OF_ONE, gpu.BARE)}
    assert all(isinstance(one, gpu.Measured) and len(one.seconds) == 2 for one in found.values())
    gpu.check_same({name: one.losses for name, one in found.items()}, gpu.SAME)


def test_rows_say_what_the_same_bits_cost() -> None:
    found = {
        gpu.GRID_OF_ONE: gpu.Measured([2.0, 4.0, 2.1], [], 3 * 2**30),
        gpu.BARE: gpu.Measured([2.0, 2.0, 9.0], [], 2**29),
    }
    ours, bare = gpu.speeds(found, CONFIG, H200)
    assert ours == ["Reforge", "61", "0.0%", "3.0", "1.050"]
    assert bare[1:] == ["64", "0.0%", "0.5", "1.000"]


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "megatron.core", None)
    assert "megatron" in str(gpu.measure("Megatron-Core, plain loop", CONFIG, 1))
