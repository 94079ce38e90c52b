"""What is around Transformer Engine, against the definitions in float64, with a stand-in for it.

The library itself runs on a GPU alone; where there is none, nothing here says that its own kernels
are right.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import linear
from kernels.attention import attention
from kernels.registry import Kernels, UnavailableError, backends, choose, load, support
from kernels.swiglu import swiglu
from kernels.te import lacks
from megatron_core.collectives import Span
from megatron_core.config import ExpertsConfig
from megatron_core.model import LanguageModel, Share
from megatron_core.model.linear import Split, columns, rows
from tests import te
from tests.formulas import CASES, assert_follows
from tests.models import small_config
from tests.spans import SHARDS, Leaf, Parts, normal, over_ranks

BF16 = torch.bfloat16
EIGHT_BITS = ("fp8_current", "mxfp8")
# How far off a product may be, in norm: numbers have seven, three or, in gradients, two bits.
TOLERANCE = {"transformer_engine": 1e-2, "fp8_current": 8e-2, "mxfp8": 5e-2}
ALL = [(op, "transformer_engine") for op in ("attention", "layer_norm", "linear", "rms_norm")]
ALL += [("linear", name) for name in EIGHT_BITS]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    te.install(monkeypatch)


def strided(name: str, *shape: int) -> Tensor:
    """Every second number of a wider tensor, from an odd address."""
    return normal(name, *shape[:-1], 2 * shape[-1] + 1, dtype=BF16)[..., 1::2]


def shifted(name: str, *shape: int) -> Tensor:
    """A view of a buffer, from its second number."""
    draws = normal(name, *shape, dtype=BF16)
    return torch.cat([draws.new_zeros(1), draws.flatten()])[1:].view(shape)


def off(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.double().norm())


MAKERS = (partial(normal, dtype=BF16), strided, shifted)


@pytest.mark.parametrize("make", MAKERS, ids=["whole", "strided", "shifted"])
@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        (name, shapes)
        for name, case in CASES.items()
        if (case.operation, "transformer_engine") in ALL
        for shapes in case.shapes
    ],
)
def test_norms_and_attention_are_those_of_the_formula(
    name: str, shapes: Sequence[tuple[int, ...]], make: Any, stand_in: None
) -> None:
    case = CASES[name]
    kernels = load({case.operation: "transformer_engine"})
    inputs = [make(f"{name}{number}", *shape) for number, shape in enumerate(shapes)]
    assert case.call(kernels, *inputs).dtype == BF16
    assert_follows(partial(case.call, kernels), case.formula, inputs)


def test_attention_sees_what_it_is_told(stand_in: None) -> None:
    """Whatever the window and the kind."""
    seen = normal("seen", 2, 4, 9) < 0.5
    seen[:, :, 0] = True
    shapes = [("query", 4, 2, 6, 8), ("key", 9, 2, 2, 8), ("value", 9, 2, 2, 8)]
    ours = load({"attention": "transformer_engine"}).attention
    for mask in ({"causal": True, "window": 2}, {"causal": False}):
        inputs = [normal(*shape, dtype=BF16) for shape in shapes]
        assert_follows(
            partial(ours, **mask, seen=seen), partial(attention, **mask, seen=seen), inputs
        )


@pytest.mark.parametrize("make", MAKERS, ids=["whole", "strided", "shifted"])
@pytest.mark.parametrize("backend", TOLERANCE)
@pytest.mark.parametrize("device", ["cpu", "cuda"], ids=["stand-in", "library"])
def test_products_of_a_layer_are_those_of_the_definition(
    backend: str, make: Any, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several layers share the input; sums go on in fp32 where they are."""
    if device == "cpu":
        te.install(monkeypatch)
    elif reason := support("linear", backend).lacks():
        pytest.skip(f"Transformer Engine: {reason}")
    kernels = load({"linear": backend})
    x, widths = make("x", 32, 2, 64).to(device), (32, 96, 64)
    weights = [make(f"w{n}", n, 64).to(device) for n in widths]
    gradients = [make(f"g{n}", 32, 2, n).to(device) for n in widths]
    wide = [[one.double() for one in kind] for kind in (weights, gradients)]

    def check(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
        assert ours.dtype == dtype
        assert off(ours, exact) < TOLERANCE[backend]

    for weight, exact in zip(weights, wide[0], strict=True):
        check(kernels.linear(x, weight), linear.linear(x.double(), exact), BF16)
        partial_sum = kernels.linear(x, weight, torch.float32)
        check(partial_sum, linear.linear(x.double(), exact), torch.float32)
        if backend == "transformer_engine":  # nothing was rounded before the end
            torch.testing.assert_close(partial_sum.double(), x.double() @ exact.T)
    check(
        kernels.input_gradient(gradients, weights), linear.input_gradient(wide[1], wide[0]),
        torch.float32,
    )  # fmt: skip
    buffer = torch.zeros(1 + 32 * 64, device=device)
    for total in (
        torch.zeros(32, 64, device=device),
        buffer[1:].view(32, 64),
    ):  # also where no bucket begins
        total.fill_(1000.0)
        for _ in range(3):
            kernels.add_weight_gradient(total, gradients[0], x)
        exact_total = torch.zeros(32, 64, dtype=torch.float64, device=device)
        linear.add_weight_gradient(exact_total, wide[1][0], x.double())
        check(total - 1000.0, 3 * exact_total, torch.float32)
    assert buffer[0] == 0.0


def layers_case(span: Span, backend: str) -> Parts:
    """Two layers that share an input, and one after them: forward, backward, two microbatches."""
    with pytest.MonkeyPatch.context() as patch:
        te.install(patch)
        kernels, leaf = load({"linear": backend}), Leaf()
        gate, up = (Split(128, 64, 0, span) for _ in range(2))
        down = Split(64, 128, 1, span)
        for name, layer in {"gate": gate, "up": up, "down": down}.items():
            whole = normal(name, *layer.weight.shape, dtype=BF16)
            for shard, weight in layer.weight.items():
                cut = whole.chunk(SHARDS, dim=layer.weight.axis)[int(shard)]
                weight.data = cut.contiguous()
        found: Parts = {}
        for number in range(2):
            slices = normal(f"x{number}", 32, 2, 64, dtype=BF16).chunk(SHARDS)
            x = torch.cat([slices[shard] for shard in span.local]).requires_grad_()
            inner = [swiglu(*both) for both in columns(x, [gate, up], span, leaf, kernels)]
            out = rows(inner, down, span, leaf, kernels)
            out.backward(out.detach())
            assert x.grad is not None
            for name, y in {"out": out.detach(), "x": x.grad}.items():
                found[f"{name}{number}"] = list(y.chunk(len(span.local)))
        for name, layer in {"gate": gate, "up": up, "down": down}.items():
            found[name] = [leaf.sums[weight, 0] for weight in layer.shards]
        return found


LAYERS = {backend: partial(layers_case, backend=backend) for backend in TOLERANCE}


def test_ranks_that_share_the_shards_get_the_same_bits(tmp_path: Path) -> None:
    """A scale is that of one product, whose shape and numbers are the grid's."""
    alone = over_ranks(LAYERS, 1, tmp_path)
    reference = layers_case(Span(SHARDS), "reference")
    for ranks in (2, 4):
        found = over_ranks(LAYERS, ranks, tmp_path)
        for case, results in alone.items():
            for name, wanted in results.items():
                assert all(map(torch.equal, found[case][name], wanted)), (case, name)
    for case, results in alone.items():
        for name, parts in results.items():
            error = off(torch.cat(parts), torch.cat(reference[name]))
            assert error < 3 * TOLERANCE[case]
            assert (error > 1e-2) == (case in EIGHT_BITS), (case, name)


@pytest.mark.parametrize(("operation", "backend"), ALL)
def test_backends_say_what_they_need(
    operation: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backend in backends(operation)
    for name in te.NAMES:
        monkeypatch.setitem(sys.modules, name, None)

    def refused(device: str = "cuda", dtype: torch.dtype = BF16) -> str:
        with pytest.raises(UnavailableError) as caught:
            choose(operation, backend, device, dtype)
        assert f"kernels.{operation}: {backend}" in str(caught.value)
        return str(caught.value)

    assert "it runs on cuda, not on cpu" in refused("cpu")
    assert "pip install 'reforge-llm[te]'" in refused()
    te.install(monkeypatch, fp8="8.9 or higher", mxfp8="10.0 or higher")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "it needs CUDA, and there is no GPU here" in refused()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if backend in EIGHT_BITS:
        assert {"fp8_current": "8.9", "mxfp8": "10.0"}[backend] in refused()
        assert "not in float16" in refused(dtype=torch.float16)
        te.install(monkeypatch)
    if operation == "attention":
        monkeypatch.delenv("NVTE_ALLOW_NONDETERMINISTIC_ALGO", raising=False)
        assert "NVTE_ALLOW_NONDETERMINISTIC_ALGO=0" in refused()
        monkeypatch.setenv("NVTE_ALLOW_NONDETERMINISTIC_ALGO", "1")
        assert "NVTE_ALLOW_NONDETERMINISTIC_ALGO=0" in refused()
        monkeypatch.setenv("NVTE_ALLOW_NONDETERMINISTIC_ALGO", "0")
    assert choose(operation, backend, "cuda", BF16).backend == backend
    assert choose(operation, "auto", "cuda", BF16).backend != backend  # not measured to pay


def test_a_library_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise OSError("libcudnn.so.9: no such file")

    monkeypatch.setattr(importlib, "import_module", broken)
    assert lacks() == "Transformer Engine cannot be loaded: libcudnn.so.9: no such file"


@pytest.mark.parametrize("experts", [None, ExpertsConfig(count=4, chosen=2, ffn=32)])
def test_every_matrix_but_the_heads_is_a_linear_layer(experts: ExpertsConfig | None) -> None:
    """The head's backend is another operation's, and its vocabulary need not fit 8-bit numbers."""
    counts: Counter[str] = Counter()

    def counted(name: str, *inputs: Any) -> Any:
        counts[name] += 1
        return getattr(linear, name)(*inputs)

    names = ("linear", "input_gradient", "add_weight_gradient")
    kernels = replace(Kernels(), **{name: partial(counted, name) for name in names})
    config = small_config(experts=experts)
    model = LanguageModel(config, Share(tensor=Span(2), kernels=kernels))
    for weight in model.parameters():
        torch.nn.init.ones_(weight)
    model(torch.arange(8)[None]).sum().backward()
    each = 1 if experts is None else experts.count  # feed-forward layers of a block
    shards = 2 * config.layers
    assert counts == {
        "linear": shards * (4 + 3 * each),
        "input_gradient": shards * (2 + 2 * each),
        "add_weight_gradient": shards * (4 + 3 * each),
    }
