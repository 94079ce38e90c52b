"""The mixture of experts against every expert applied to every token, in float64."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels.registry import Kernels
from megatron_core.collectives import ContextSpan, Span
from megatron_core.config import ExpertsConfig, ModelConfig
from megatron_core.model import Place, Share, parameter_shards
from megatron_core.model.experts import Experts
from tests.ranks import run_ranks

HIDDEN, COUNT, BATCH, LENGTH = 12, 4, 3, 16
SCALE, PREDICTIONS = 8.0, 0.5


def config_for(**changes: object) -> ModelConfig:
    experts = ExpertsConfig.model_validate(
        {"count": COUNT, "chosen": 2, "ffn": 8, "balance_loss": 0.3, "z_loss": 0.2} | changes
    )
    return ModelConfig(hidden=HIDDEN, heads=2, kv_heads=2, experts=experts)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(config: ModelConfig, share: Share, dtype: torch.dtype = torch.float32) -> Experts:
    """A layer, or a share of it, whose weights depend on their names alone."""
    layer = Experts(config, share)
    for i, (name, shape) in enumerate(sorted(shapes(config).items())):
        whole = normal(*shape, seed=i) * (1.0 if name == "router.weight" else 0.4)
        for shard in parameter_shards(layer):
            if shard.place.tensor == name:
                shard.parameter.data = shard.place.cut(whole).contiguous().to(dtype)
    return layer


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    experts = config.experts
    assert experts is not None
    found: dict[str, tuple[int, ...]] = {"router.weight": (experts.count, HIDDEN)}
    for expert in range(experts.count):
        for name in ("gate", "up", "down"):
            shape = (experts.ffn, HIDDEN)
            found[f"experts.{expert}.{name}.weight"] = shape[::-1] if name == "down" else shape
    return found


def dense(config: ModelConfig, weights: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Every expert for every token ``[n, hidden]``, those not chosen times zero; both losses."""
    experts = config.experts
    assert experts is not None
    logits = x @ weights["router.weight"].T
    shares = logits.softmax(dim=1)
    chosen = torch.zeros_like(shares)
    for token, row in enumerate(logits.tolist()):
        for expert in sorted(range(experts.count), key=lambda e: (-row[e], e))[: experts.chosen]:
            chosen[token, expert] = 1
    counted = shares * chosen
    if experts.normalize:
        counted = counted / counted.sum(dim=1, keepdim=True)
    result = torch.zeros_like(x)
    for expert in range(experts.count):
        gate, up, down = (
            weights[f"experts.{expert}.{name}.weight"] for name in ("gate", "up", "down")
        )
        inner = x @ gate.T / (1 + (-x @ gate.T).exp()) * (x @ up.T)
        result = result + counted[:, expert, None] * (inner @ down.T)
    balance = experts.count * (chosen.mean(dim=0) / experts.chosen * shares).sum()
    z = logits.exp().sum(dim=1).log().pow(2).sum()
    return result, experts.balance_loss * balance + experts.z_loss * z


def whole(layer: Experts, *, gradients: bool = False) -> dict[str, Tensor]:
    """Weights or gradients by tensor, shards put together."""
    parts: dict[str, list[Tensor]] = defaultdict(list)
    axes = {}
    for shard in parameter_shards(layer):
        found = shard.parameter.grad if gradients else shard.parameter.detach()
        assert found is not None
        parts[shard.place.tensor].append(found)
        axes[shard.place.tensor] = shard.place.axis or 0
    return {name: torch.cat(found, dim=axes[name]) for name, found in parts.items()}


CASES = {
    "plain": (1, 1, {}),
    "one chosen": (1, 1, {"chosen": 1}),
    "all chosen": (1, 1, {"chosen": 4}),
    "not normalized": (1, 1, {"normalize": False, "chosen": 3}),
    "tensor": (4, 1, {}),
    "context": (1, 4, {}),
    "both": (2, 2, {"chosen": 3}),
    "odd width": (1, 2, {"ffn": 9}),
}


def run(
    case: str, dtype: torch.dtype, recompute: bool = False
) -> tuple[Experts, Tensor, Tensor, dict[str, Tensor]]:
    """The layer on one rank, its result and the gradients of input and weights by tensor."""
    tensor, context, changes = CASES[case]
    share = Share(tensor=Span(tensor), context=ContextSpan(context))
    layer = build(config_for(**changes), share, dtype)
    x = inputs(dtype).requires_grad_()
    chunks = [x.chunk(context)[c] for c in share.context.chunks]
    places = [Place(c, scale=SCALE, predictions=PREDICTIONS) for c in share.context.chunks]
    if recompute:
        results = checkpoint(layer, chunks, places, use_reentrant=False)
    else:
        results = layer(chunks, places)
    leaves = [upstream(dtype).chunk(context)[c] for c in share.context.chunks]
    torch.autograd.backward(results, leaves)
    result = torch.cat([results[share.context.leaf(c)] for c in range(context)])
    assert x.grad is not None
    return layer, result.detach(), x.grad, whole(layer, gradients=True)


def inputs(dtype: torch.dtype) -> Tensor:
    return normal(LENGTH, BATCH, HIDDEN, seed=100).to(dtype)


def upstream(dtype: torch.dtype) -> Tensor:
    return normal(LENGTH, BATCH, HIDDEN, seed=101).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_dense_layer(case: str, dtype: torch.dtype) -> None:
    layer, result, gradient, gradients = run(case, dtype)
    exact = inputs(dtype).double().requires_grad_()
    weights = {name: w.double().requires_grad_() for name, w in whole(layer).items()}
    config = config_for(**CASES[case][2])
    expected, losses = dense(config, weights, exact.flatten(0, 1))
    model_loss = (expected * upstream(dtype).double().flatten(0, 1)).sum()
    (model_loss + SCALE * PREDICTIONS * losses).backward()

    tolerance = 2e-5 if dtype == torch.float32 else 4e-2

    def close(found: Tensor, wanted: Tensor | None) -> None:
        assert wanted is not None
        assert found.dtype == dtype
        limit = tolerance * float(wanted.abs().max())
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=limit)

    close(result, expected.detach().view(result.shape))
    close(gradient, exact.grad)
    assert gradients.keys() == weights.keys() == shapes(config).keys()
    for name, weight in weights.items():
        close(gradients[name], weight.grad)


@pytest.mark.parametrize("case", ["plain", "both"])
def test_recomputed_activations_change_no_bit(case: str) -> None:
    _, *kept, weights = run(case, torch.float32)
    _, *again, same = run(case, torch.float32, recompute=True)
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
    assert weights.keys() == same.keys()
    assert all(torch.equal(weights[name], same[name]) for name in weights)


class Ledger:
    """A leaf that keeps every sum, and counts what it was given."""

    def __init__(self, layer: nn.Module) -> None:
        self.names = {s.parameter: s.key for s in parameter_shards(layer)}
        self.sums: dict[tuple[str, int], Tensor] = {}
        self.count: dict[tuple[str, int], int] = defaultdict(int)

    def _sum(self, weight: nn.Parameter, variant: int) -> Tensor:
        key = self.names[weight], variant
        self.count[key] += 1
        return self.sums.setdefault(key, torch.zeros(weight.shape))

    @torch.no_grad()
    def linear(
        self, weight: nn.Parameter, gradient: Tensor, x: Tensor, kernels: Kernels, source: int = 0
    ) -> None:
        kernels.add_weight_gradient(self._sum(weight, source), gradient, x)

    @torch.no_grad()
    def add(self, weight: nn.Parameter, gradient: Tensor, slice: int = 0) -> None:
        self._sum(weight, slice).add_(gradient)

    def accumulate(self, weight: nn.Parameter, add: Callable[[Tensor], None]) -> None:
        add(self._sum(weight, 0))


def step(
    layer: Experts, share: Share, microbatch: int, dtype: torch.dtype
) -> tuple[dict[int, Tensor], dict[int, Tensor], list[Ledger]]:
    """Forward and backward of one microbatch: results and input gradients by chunk, leaves."""
    span, context = share.tensor, share.context
    x = normal(LENGTH, BATCH, HIDDEN, seed=200 + microbatch).to(dtype)
    weight = normal(LENGTH, BATCH, HIDDEN, seed=300 + microbatch).to(dtype)

    def local(x: Tensor, chunk: int) -> Tensor:
        return x.chunk(context.shards)[chunk].chunk(span.ranks)[span.rank]

    chunks = [local(x, c).clone().requires_grad_() for c in context.chunks]
    leaves = [Ledger(layer) for _ in chunks]
    places = [
        Place(c, leaf, None, SCALE, PREDICTIONS)
        for c, leaf in zip(context.chunks, leaves, strict=True)
    ]
    results = layer(chunks, places)
    torch.autograd.backward(results, [local(weight, c) for c in context.chunks])
    gradients = [x.grad for x in chunks]
    assert None not in gradients
    return (
        dict(zip(context.chunks, (r.detach() for r in results), strict=True)),
        dict(zip(context.chunks, gradients, strict=True)),  # type: ignore[arg-type]
        leaves,
    )


GRID = (4, 2)  # tensor shards and context chunks


def work(folder: Path, degrees: Sequence[int], dtype: torch.dtype) -> None:
    """As one of the ranks: compute its share and write it down."""
    torch.set_num_threads(1)
    expert, context, tensor = degrees
    ranks = expert * context * tensor
    rank = 0
    groups: dict[str, Any] = {}
    if ranks > 1:
        dist.init_process_group("gloo")
        rank = dist.get_rank()
    place = torch.arange(ranks).view(expert, context, tensor)
    for axis, name in enumerate(("expert", "context", "tensor")):
        for members in place.movedim(axis, -1).reshape(-1, degrees[axis]).tolist():
            if len(members) > 1:
                group = dist.new_group(members)
                if rank in members:
                    groups[name] = group
    (e,), (c,), (t,) = (x.tolist() for x in (place == rank).nonzero(as_tuple=True))
    share = Share(
        tensor=Span(GRID[0], tensor, t, groups.get("tensor")),
        context=ContextSpan(GRID[1], context, c, groups.get("context")),
        expert=Span(expert, expert, e, groups.get("expert")),
    )
    found: dict[str, Tensor] = {}
    # Each expert rank has a microbatch of its own; without them one rank takes both in turn.
    for microbatch in [e] if expert > 1 else [0, 1]:
        layer = build(config_for(), share, dtype)
        results, gradients, leaves = step(layer, share, microbatch, dtype)
        for chunk in share.context.chunks:
            found[f"result/{microbatch}/{chunk}/{t}"] = results[chunk]
            found[f"gradient/{microbatch}/{chunk}/{t}"] = gradients[chunk]
        for leaf, chunk in zip(leaves, share.context.chunks, strict=True):
            for (name, variant), total in leaf.sums.items():
                assert leaf.count[name, variant] == 1
                if name == "router.weight/0":
                    number = share.tensor.local[variant]
                    found[f"{name}/slice {number}/{microbatch}/{chunk}"] = total
                else:
                    source = variant if expert > 1 else microbatch
                    found[f"{name}/{source}/{chunk}"] = total
    torch.save(found, folder / f"{rank}.pt")
    if ranks > 1:
        dist.destroy_process_group()


def gathered(folder: Path, degrees: Sequence[int], dtype: torch.dtype) -> dict[str, Tensor]:
    """Everything that the ranks of a layout found, slices put together."""
    folder.mkdir()
    ranks = degrees[0] * degrees[1] * degrees[2]
    assert run_ranks(work, ranks, folder, degrees, dtype) == [0] * ranks
    merged: dict[str, Tensor] = {}
    for rank in range(ranks):
        merged |= torch.load(folder / f"{rank}.pt")
    found = {k: v for k, v in merged.items() if not k.startswith(("result", "gradient"))}
    for kind, microbatch, chunk in itertools.product(("result", "gradient"), range(2), range(2)):
        name = f"{kind}/{microbatch}/{chunk}"
        found[name] = torch.cat([merged[f"{name}/{t}"] for t in range(degrees[2])])
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[torch.dtype, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("alone")
    return {
        dtype: gathered(folder / str(dtype), (1, 1, 1), dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }


@pytest.mark.parametrize(
    ("degrees", "dtype"),
    [
        ((2, 1, 1), torch.float32),
        ((1, 1, 4), torch.float32),
        ((2, 2, 2), torch.float32),
        ((2, 2, 2), torch.bfloat16),
    ],
    ids=str,
)
def test_every_layout_gives_the_same_bits(
    degrees: Sequence[int],
    dtype: torch.dtype,
    alone: dict[torch.dtype, dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    """Results, input gradients, and each leaf's weight gradients by source and slice."""
    found = gathered(tmp_path / "ranks", degrees, dtype)
    expected = alone[dtype]
    assert found.keys() == expected.keys()
    different = [name for name in sorted(found) if not torch.equal(found[name], expected[name])]
    assert different == []


def test_experts_that_nobody_chose_still_report_a_gradient() -> None:
    """A leaf counts what arrives, so the gradient of no rows arrives too, and is zero."""
    config = config_for(chosen=1)
    layer = build(config, Share())
    layer.router.weight.data.zero_()  # every token ties, and goes to expert 0
    _, _, (leaf,) = step(layer, Share(), 0, torch.float32)
    assert set(leaf.names.values()) == {name for name, _ in leaf.sums}
    assert set(leaf.count.values()) == {1}
    for (name, _), total in leaf.sums.items():
        assert bool(total.any()) == (name.startswith(("experts.0.", "router")))


def test_experts_that_cannot_be_spread_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3 ranks cannot share count=4 .* evenly"):
        Experts(config_for(), Share(expert=Span(3, 3)))
