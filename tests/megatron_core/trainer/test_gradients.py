"""How gradients of microbatches are gathered."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megatron_core.collectives import TreeAccumulator
from megatron_core.optimizer import FlatLayout
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import Mesh
from megatron_core.trainer.gradients import GradientAccumulator

ALONE = Mesh(Layout(), 0, torch.device("cpu"), None)


def small_model(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 2)).to(dtype)


def microbatch(number: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(number)).to(dtype)


def loss(model: nn.Module, number: int, dtype: torch.dtype) -> Tensor:
    result: Tensor = F.silu(model(microbatch(number, dtype))).sum()
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_microbatches_add_by_number_and_shards_by_the_tree(dtype: torch.dtype) -> None:
    model = small_model(dtype)
    layout = FlatLayout({name: p.shape for name, p in model.named_parameters()})
    gradients, tree = GradientAccumulator(model, layout, {}), TreeAccumulator()
    for shard in range(4):
        buffer = gradients.begin_shard()
        for number in range(3 * shard, 3 * shard + 3):
            loss(model, number, dtype).backward()  # type: ignore[no-untyped-call]
        tree.push(buffer)
    found = layout.views(gradients.total(tree, ALONE, 7.0))

    twin = small_model(dtype)
    parts = [
        torch.autograd.grad(loss(twin, number, dtype), list(twin.parameters()))
        for number in range(12)
    ]
    for i, (name, parameter) in enumerate(twin.named_parameters()):
        part = [p[i].float() for p in parts]
        shards = [(part[j] + part[j + 1]) + part[j + 2] for j in (0, 3, 6, 9)]
        expected = ((shards[0] + shards[1]) + (shards[2] + shards[3])) / 7.0
        assert found[name].dtype == torch.float32
        assert found[name].shape == parameter.shape
        assert torch.equal(found[name], expected), name


class Twice(nn.Module):
    """One matrix used at both ends, as two parameters of one storage."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner = nn.Linear(5, 5, bias=False)
        self.outer = nn.Linear(5, 5, bias=False)
        self.outer.weight = nn.Parameter(self.inner.weight.data)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.outer(torch.tanh(self.inner(x)))
        return result


def test_tied_parameters_add_up() -> None:
    model, x = Twice(), torch.randn(7, 5, generator=torch.Generator().manual_seed(2))
    layout = FlatLayout({"inner.weight": torch.Size([5, 5])})
    gradients = GradientAccumulator(model, layout, {"outer.weight": "inner.weight"})
    tree = TreeAccumulator()
    buffer = gradients.begin_shard()
    model(x).square().sum().backward()
    tree.push(buffer)
    found = layout.views(gradients.total(tree, ALONE, 1.0))["inner.weight"]
    weight = model.inner.weight.detach().double().requires_grad_()
    (torch.tanh(x.double() @ weight.T) @ weight.T).square().sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    torch.testing.assert_close(found.double(), weight.grad, rtol=1e-5, atol=1e-5)
