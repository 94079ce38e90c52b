"""What a recipe may ask of its kernels."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from megatron_core.config import Recipe
from megatron_core.config.kernels import EIGHT_BITS
from megatron_core.config.recipe import cross_section_problems
from tests.megatron_core.config.test_recipe import changed, raw_recipe


def eight_bits(backend: str, **changes: Any) -> list[str]:
    """The problems of a recipe whose sizes are multiples of 32, with ``changes`` by path."""
    raw = raw_recipe()
    changed(raw, "pretrain.device", "cuda")
    changed(raw, "pretrain.precision", "bf16")
    changed(raw, "pretrain.model.hidden", 128)
    changed(raw, "pretrain.model.ffn", 96)
    recipe = changed(raw, "pretrain.kernels", {"linear": backend})
    for path, value in changes.items():
        recipe = changed(raw, path, value)
    return [f"{found.path}: {found.message}" for found in cross_section_problems(recipe)]


@pytest.mark.parametrize("backend", EIGHT_BITS)
def test_8_bit_products_have_sizes_that_fit(backend: str) -> None:
    multiple = EIGHT_BITS[backend]
    assert eight_bits(backend) == []
    assert eight_bits("transformer_engine", **{"pretrain.model.ffn": 90}) == []
    field, most = "pretrain.kernels.linear: needs", f"to be a multiple of {multiple}"
    for changes, named in (
        ({"pretrain.model.ffn": 104}, "pretrain.model.ffn / grid.tensor = 104"),
        ({"pretrain.sequence_length": 40}, "pretrain.sequence_length / grid.context = 40"),
        ({"pretrain.model.head_width": 12}, "keys' width / grid.tensor = 24"),
        ({"pretrain.model.hidden": 120}, "pretrain.model.hidden = 120"),
    ):
        assert f"{field} {named} {most}" in eight_bits(backend, **changes)
    split = {"pretrain.model.ffn": 96, "pretrain.grid": {"tensor": 4}}
    assert f"{field} pretrain.model.ffn / grid.tensor = 24 {most}" in eight_bits(backend, **split)
    split = {"pretrain.grid": {"context": 4}}
    found = eight_bits(backend, **split)
    assert found == [f"{field} pretrain.sequence_length / grid.context = 8 {most}"]


@pytest.mark.parametrize("backend", EIGHT_BITS)
def test_8_bit_products_are_of_bf16_on_a_gpu_and_of_no_mixture(backend: str) -> None:
    for path, value, needed in (("device", "cpu", "cuda"), ("precision", "fp16", "bf16")):
        (found,) = eight_bits(backend, **{f"pretrain.{path}": value})
        assert found == f"pretrain.{path}: must be {needed} with kernels.linear"
    experts = {"count": 4, "chosen": 2, "ffn": 90}
    (found,) = eight_bits(backend, **{"pretrain.model.experts": experts})
    assert found.startswith("pretrain.kernels.linear: is not for a mixture")


def test_delayed_scaling_is_refused_with_its_reason() -> None:
    with pytest.raises(ValidationError, match="delayed scaling is not offered: its history"):
        changed(raw_recipe(), "pretrain.kernels", {"linear": "fp8_delayed"})
    assert Recipe.model_validate(raw_recipe()).pretrain.kernels.linear is None
