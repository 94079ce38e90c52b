"""Which kernels a recipe gets."""

from __future__ import annotations

import pytest

from kernels.registry import OPERATIONS, backends
from megatron_core.config import KernelsConfig
from megatron_core.errors import ConfigError
from megatron_core.parallel.backends import chosen_kernels
from tests.recipes import recipe


def chosen(**kernels: str) -> dict[str, str]:
    config = recipe(kernels=KernelsConfig.model_validate(kernels))
    return {one.operation: one.backend for one in chosen_kernels(config)}


def test_the_recipe_has_a_field_for_every_operation() -> None:
    assert set(KernelsConfig.model_fields) == {"default", *OPERATIONS}


def test_a_default_is_used_where_an_operation_has_it() -> None:
    found = chosen(default="blocked", rms_norm="reference")
    assert found["linear_cross_entropy"] == "blocked"
    assert {found[name] for name in OPERATIONS if "blocked" not in backends(name)} == {"reference"}
    assert set(chosen(default="reference").values()) == {"reference"}


def test_a_backend_that_is_named_must_be_there() -> None:
    with pytest.raises(ConfigError, match=r"kernels\.rotary: there is no backend 'blocked'"):
        chosen(rotary="blocked")
