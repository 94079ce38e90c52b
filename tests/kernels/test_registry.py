"""Which backend is chosen, and what is said of one that cannot be."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import kernels.gelu
from kernels import registry
from kernels.gelu.reference import gelu
from kernels.registry import Choice, Kernels, UnavailableError, choose, load

FP32, BF16 = torch.float32, torch.bfloat16

MODULES = {
    "absent": 'Support(devices=("cpu",), automatic=("cpu",), lacks=lambda: "install it: pip x")',
    "unsure": 'Support(devices=("cpu",), automatic=("cpu",), deterministic=False)',
    "swift": 'Support(devices=("cpu",), dtypes=(torch.float32,), automatic=("cpu",))',
    "slow": 'Support(devices=("cpu", "cuda"))',
}


@pytest.fixture(autouse=True)
def backends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """GELU has four more backends, in this order."""
    for name, support in MODULES.items():
        (tmp_path / f"{name}.py").write_text(
            f"import torch\nfrom kernels.support import Support\nSUPPORT = {support}\n"
            f"def gelu(x, *, tanh):\n    return '{name}'\n"
        )
    monkeypatch.setattr(kernels.gelu, "__path__", [*kernels.gelu.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "BACKENDS", tuple(MODULES))
    importlib.invalidate_caches()
    yield
    for name in MODULES:
        sys.modules.pop(f"kernels.gelu.{name}", None)


def test_the_files_of_a_folder_are_its_backends() -> None:
    assert registry.backends("gelu") == ["reference", *MODULES]
    assert registry.backends("swiglu") == ["reference"]


def test_auto_takes_the_first_that_can_be_used_and_pays() -> None:
    assert choose("gelu", "auto", "cpu", FP32) == Choice("gelu", "swift", "it pays on cpu")


def test_auto_says_why_it_is_the_reference() -> None:
    chosen = choose("gelu", "auto", "cpu", BF16)
    assert chosen.backend == "reference"
    assert "absent: install it: pip x" in chosen.reason
    assert "unsure: its bits differ from run to run" in chosen.reason
    assert "swift: it computes in float32, not in bfloat16" in chosen.reason
    assert choose("gelu", "auto", "cuda", FP32) == Choice(
        "gelu", "reference", "nothing else pays on cuda"
    )


@pytest.mark.parametrize("name", ["swift", "slow", "reference"])
def test_a_named_backend_is_taken(name: str) -> None:
    assert choose("gelu", name, "cpu", FP32) == Choice("gelu", name, "as asked for")


@pytest.mark.parametrize(
    ("name", "device", "dtype", "message"),
    [
        ("absent", "cpu", FP32, "kernels.gelu: absent cannot be used: install it: pip x"),
        ("unsure", "cpu", FP32, "its bits differ from run to run"),
        ("swift", "cuda", FP32, "it runs on cpu, not on cuda"),
        ("swift", "cpu", BF16, "it computes in float32, not in bfloat16"),
        ("swfit", "cpu", FP32, "there is no backend 'swfit'; it has reference, absent, unsure"),
    ],
)
def test_a_named_backend_that_cannot_be_used_is_an_error(
    name: str, device: str, dtype: torch.dtype, message: str
) -> None:
    with pytest.raises(UnavailableError, match=message):
        choose("gelu", name, device, dtype)


def test_the_chosen_functions_are_loaded_and_the_others_are_the_definitions() -> None:
    loaded = load({"gelu": "swift", "swiglu": "reference"})
    assert loaded.gelu(torch.zeros(1), tanh=True) == "swift"
    assert loaded.swiglu is Kernels().swiglu
    assert loaded.attention is Kernels().attention
    assert load({}) == Kernels()
    assert load({"gelu": "reference"}).gelu is gelu


@pytest.mark.parametrize("operation", registry.OPERATIONS)
def test_every_definition_is_a_field_of_the_functions(operation: str) -> None:
    reference = importlib.import_module(f"kernels.{operation}.reference")
    for name in registry.OPERATIONS[operation]:
        assert getattr(Kernels(), name) is getattr(reference, name)
