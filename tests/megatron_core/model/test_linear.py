"""Layers over tensor shards against the whole layer in float64, and the same bits on any ranks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from megatron_core.collectives import Span
from megatron_core.model.linear import Split, collect, columns, replicated, rows
from tests.spans import SHARDS, Leaf, Parts, normal, over_ranks

S, B, IN, OUT, WIDE = 8, 3, 12, 16, 24


def whole(layer: str) -> Tensor:
    """The matrix of a layer."""
    shapes = {"gate": (OUT, IN), "up": (WIDE, IN), "down": (OUT, WIDE)}
    return normal(layer, *shapes[layer])


def split(layer: str, axis: int, span: Span, dtype: torch.dtype) -> Split:
    """The local shards of a layer."""
    made = Split(*whole(layer).shape, axis, span)
    for shard, weight in made.weight.items():
        weight.data = whole(layer).chunk(SHARDS, dim=axis)[int(shard)].contiguous().to(dtype)
    return made


def sliced(name: str, span: Span, dtype: torch.dtype, *shape: int) -> Tensor:
    """The local slices of a tensor."""
    slices = normal(name, *shape, dtype=dtype).chunk(SHARDS)
    return torch.cat([slices[shard] for shard in span.local])


def each(name: str, span: Span, dtype: torch.dtype, *shape: int) -> list[Tensor]:
    """A tensor for every local shard."""
    return [normal(f"{name}.{shard}", *shape, dtype=dtype) for shard in span.local]


def parts(x: Tensor | None, span: Span) -> list[Tensor]:
    """The local slices, apart."""
    assert x is not None
    return list(x.detach().chunk(len(span.local)))


def gradients(layer: Split, leaf: Leaf | None) -> list[Tensor]:
    """Of each local shard, from the leaf or else from autograd."""
    if leaf is not None:
        assert all(weight.grad is None for weight in layer.shards)
        return [leaf.sums[weight, 0] for weight in layer.shards]
    return [weight.grad for weight in layer.shards if weight.grad is not None]


def columns_case(span: Span, dtype: torch.dtype, leaf: Leaf | None) -> Parts:
    """Two layers on one input."""
    x = sliced("x", span, dtype, S, B, IN).requires_grad_()
    gate, up = (split(name, 0, span, dtype) for name in ("gate", "up"))
    gates, ups = zip(*columns(x, [gate, up], span, leaf), strict=True)
    upstream = [
        *each("dgate", span, dtype, S, B, OUT // SHARDS),
        *each("dup", span, dtype, S, B, WIDE // SHARDS),
    ]
    torch.autograd.backward([*gates, *ups], upstream)
    return {
        "gates": list(gates), "ups": list(ups), "x": parts(x.grad, span),
        "gate": gradients(gate, leaf), "up": gradients(up, leaf),
    }  # fmt: skip


def rows_case(span: Span, dtype: torch.dtype, leaf: Leaf | None) -> Parts:
    inputs = [x.requires_grad_() for x in each("wide", span, dtype, S, B, WIDE // SHARDS)]
    down = split("down", 1, span, dtype)
    out = rows(inputs, down, span, leaf)
    out.backward(sliced("dout", span, dtype, S, B, OUT))
    return {
        "out": parts(out, span), "wide": [x.grad for x in inputs if x.grad is not None],
        "down": gradients(down, leaf),
    }  # fmt: skip


def collect_case(span: Span, dtype: torch.dtype) -> Parts:
    """What all ranks then compute alike is here once for each local shard."""
    x = sliced("x", span, dtype, S, B, IN).requires_grad_()
    y = collect(x, span)
    y.backward(normal("dcollect", S, B, IN, dtype=dtype))
    return {"all": [y.detach()] * len(span.local), "collected": parts(x.grad, span)}


def exact() -> dict[str, Tensor]:
    """The same, whole and in float64; what is cut by features is stacked by shard."""
    x, gate, up, down, wide = (
        t.double().requires_grad_()
        for t in (
            normal("x", S, B, IN), whole("gate"), whole("up"), whole("down"),
            joined("wide", S, B, WIDE // SHARDS),
        )
    )  # fmt: skip
    gates, ups, out = x @ gate.T, x @ up.T, wide @ down.T
    torch.autograd.backward(
        [gates, ups, out],
        [
            joined("dgate", S, B, OUT // SHARDS).double(),
            joined("dup", S, B, WIDE // SHARDS).double(), normal("dout", S, B, OUT).double(),
        ],
    )  # fmt: skip
    last = {name: stacked(t, -1) for name, t in {"gates": gates, "ups": ups}.items()}
    found = {
        "x": x.grad, "gate": gate.grad, "up": up.grad, "out": out.detach(),
        "wide": stacked(wide.grad, -1), "down": stacked(down.grad, 1),
        "all": torch.cat([normal("x", S, B, IN).double()] * SHARDS),
        "collected": normal("dcollect", S, B, IN).double(),
    }  # fmt: skip
    return {name: t for name, t in (found | last).items() if t is not None}


def joined(name: str, *shape: int) -> Tensor:
    """What every shard has, side by side."""
    return torch.cat([normal(f"{name}.{shard}", *shape) for shard in range(SHARDS)], dim=-1)


def stacked(x: Tensor | None, dim: int) -> Tensor:
    """Shards along ``dim`` as parts along the first dimension."""
    assert x is not None
    return torch.cat(x.detach().chunk(SHARDS, dim))


def every_case(span: Span, dtype: torch.dtype, with_leaf: bool) -> Parts:
    leaf = Leaf() if with_leaf else None
    return {
        **columns_case(span, dtype, leaf), **rows_case(span, dtype, leaf),
        **collect_case(span, dtype),
    }  # fmt: skip


CASES = {
    "autograd": partial(every_case, dtype=torch.float32, with_leaf=False),
    "leaf": partial(every_case, dtype=torch.float32, with_leaf=True),
    "bf16": partial(every_case, dtype=torch.bfloat16, with_leaf=True),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Parts]:
    """All shards on one rank."""
    return over_ranks(CASES, 1, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("case", CASES)
def test_results_and_gradients_are_those_of_the_whole_layer(
    case: str, alone: dict[str, Parts]
) -> None:
    tolerance = 3e-2 if case == "bf16" else 2e-6
    expected = exact()
    assert alone[case].keys() == expected.keys()
    for name, wanted in expected.items():
        ours = torch.cat(alone[case][name]).double()
        scale = float(wanted.abs().max())
        torch.testing.assert_close(ours, wanted, rtol=tolerance, atol=tolerance * scale, msg=name)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_share_the_shards_get_the_same_bits(
    ranks: int, alone: dict[str, Parts], tmp_path: Path
) -> None:
    found = over_ranks(CASES, ranks, tmp_path)
    for case, results in alone.items():
        for name, wanted in results.items():
            assert len(found[case][name]) == SHARDS
            assert all(map(torch.equal, found[case][name], wanted)), (case, name)


def test_a_leaf_adds_up_microbatches_in_fp32() -> None:
    """Also where the weight is of a lower precision, which could not hold the sum."""
    span, leaf, dtype = Span(SHARDS), Leaf(), torch.bfloat16
    gate = split("gate", 0, span, dtype)
    expected = torch.zeros(OUT, IN)
    for number in range(3):
        x = normal(f"x{number}", S, B, IN, dtype=dtype).requires_grad_()
        upstream = each(f"d{number}", span, dtype, S, B, OUT // SHARDS)
        outputs = [out for (out,) in columns(x, [gate], span, leaf)]
        torch.autograd.backward(outputs, upstream)
        expected += torch.einsum("sbo,sbi->oi", torch.cat(upstream, -1).float(), x.detach().float())
    found = torch.cat([leaf.sums[weight, 0] for weight in gate.shards])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_replicated_weights_give_each_slice_a_gradient_of_its_own() -> None:
    weight, leaf, x = nn.Parameter(normal("w", IN)), Leaf(), normal("x", S, IN)
    for number, part in enumerate(x.chunk(SHARDS)):
        (part * replicated(weight, leaf, number)).sum().backward()
    assert weight.grad is None
    for number, part in enumerate(x.chunk(SHARDS)):
        assert torch.equal(leaf.sums[weight, number], part.sum(0))
    assert replicated(weight, None) is weight
