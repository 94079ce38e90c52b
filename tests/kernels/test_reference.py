"""Each operation's definition against its formula, written out in float64."""

from __future__ import annotations

import importlib.util
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import kernels
from kernels.adamw import adamw_step
from kernels.attention import causal_attention
from kernels.cross_entropy import IGNORED, cross_entropy_sum
from kernels.rms_norm import rms_norm
from kernels.rotary import apply_rotary, rotary_table
from kernels.squared_norm import squared_norm
from kernels.swiglu import swiglu

OPERATIONS = sorted(
    path.name
    for path in Path(kernels.__path__[0]).iterdir()
    if path.is_dir() and path.name != "__pycache__"
)
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2}
Shape = tuple[int, ...]


def attention_formula(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One row of one head at a time."""
    batch, heads, length, size = query.shape
    groups = heads // key.shape[1]
    rows = []
    for b in range(batch):
        for h in range(heads):
            for t in range(length):
                scores = key[b, h // groups, : t + 1] @ query[b, h, t] / math.sqrt(size)
                share = (scores - scores.max()).exp()
                rows.append((share / share.sum()) @ value[b, h // groups, : t + 1])
    return torch.stack(rows).view(batch, heads, length, size)


def rms_norm_formula(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).sum(-1, keepdim=True) / x.shape[-1] + 0.1).sqrt() * weight


def rotary_formula(x: Tensor) -> Tensor:
    """Numbers i and i + size / 2 are one complex number, turned by position × theta^(-2i/size)."""
    length, size = x.shape[-2:]
    half = size // 2
    turned = []
    for position in range(length):
        angles = torch.tensor([position * 100.0 ** (-2 * i / size) for i in range(half)])
        z = torch.complex(x[..., position, :half], x[..., position, half:])
        z = z * torch.polar(torch.ones(half, dtype=torch.float64), angles.double())
        turned.append(torch.cat([z.real, z.imag], dim=-1))
    return torch.stack(turned, dim=-2)


def swiglu_formula(gate: Tensor, up: Tensor) -> Tensor:
    return gate * up / (1 + (-gate).exp())


def targets_for(logits: Tensor) -> Tensor:
    """Every third target does not count."""
    count = math.prod(logits.shape[:-1])
    targets = torch.arange(count) * 7 % logits.shape[-1]
    targets[::3] = IGNORED
    return targets.view(logits.shape[:-1])


def cross_entropy_formula(logits: Tensor) -> Tensor:
    targets = targets_for(logits).flatten()
    total = logits.new_zeros(())
    for row, target in zip(logits.flatten(0, -2), targets.tolist(), strict=True):
        if target >= 0:
            total = total + (row - row[target]).exp().sum().log()
    return total


@dataclass(frozen=True)
class Case:
    """An operation of tensors alone, its formula, and shapes of its inputs."""

    operation: Callable[..., Tensor]
    formula: Callable[..., Tensor]
    shapes: Sequence[Sequence[Shape]]


CASES = {
    "attention": Case(
        causal_attention,
        attention_formula,
        [
            [(2, 4, 7, 8)] * 3,
            [(1, 6, 9, 4), (1, 2, 9, 4), (1, 2, 9, 4)],
            [(1, 2, 33, 16), (1, 1, 33, 16), (1, 1, 33, 16)],
            [(3, 1, 1, 2)] * 3,
        ],
    ),
    "rms_norm": Case(
        lambda x, weight: rms_norm(x, weight, 0.1),
        rms_norm_formula,
        [[(2, 5, 16), (16,)], [(7,), (7,)], [(33, 100), (100,)]],
    ),
    "rotary": Case(
        lambda x: apply_rotary(x, rotary_table(x.shape[-2] + 3, x.shape[-1], 100.0)[:, :-3]),
        rotary_formula,
        [[(2, 3, 11, 8)], [(1, 1, 1, 2)], [(1, 2, 40, 6)]],
    ),
    "swiglu": Case(
        swiglu, swiglu_formula, [[(2, 5, 16)] * 2, [(3, 33)] * 2, [(1,)] * 2]
    ),
    "cross_entropy": Case(
        lambda logits: cross_entropy_sum(logits, targets_for(logits)),
        cross_entropy_formula,
        [[(2, 5, 16)], [(9, 3)], [(40, 101)]],
    ),
}  # fmt: skip


def random_tensor(shape: Shape, dtype: torch.dtype, strided: bool, seed: int) -> Tensor:
    """Normal draws; strided ones are every second number of a wider tensor."""
    generator = torch.Generator().manual_seed(seed)
    if not strided:
        return torch.randn(shape, generator=generator).to(dtype)
    wide = torch.randn(*shape[:-1], 2 * shape[-1], generator=generator).to(dtype)
    return wide[..., ::2]


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "shapes"), [(name, shapes) for name, case in CASES.items() for shapes in case.shapes]
)
def test_forward_and_backward_are_those_of_the_formula(
    name: str, shapes: Sequence[Shape], dtype: torch.dtype, strided: bool
) -> None:
    case, seed = CASES[name], zlib.crc32(repr((name, shapes)).encode())
    ours = [
        random_tensor(shape, dtype, strided, seed + i).requires_grad_()
        for i, shape in enumerate(shapes)
    ]
    exact = [x.detach().double().requires_grad_() for x in ours]
    result, expected = case.operation(*ours), case.formula(*exact)
    assert result.dtype == (torch.float32 if name == "cross_entropy" else dtype)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed))
    result.backward(upstream.to(result.dtype))
    expected.backward(upstream.to(result.dtype).double())
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)
    for x, wanted in zip(ours, exact, strict=True):
        assert x.grad is not None
        assert wanted.grad is not None
        scale = float(wanted.grad.abs().max())
        torch.testing.assert_close(
            x.grad.double(), wanted.grad, rtol=tolerance, atol=tolerance * max(1.0, scale)
        )


def test_cross_entropy_is_finite_where_exp_is_not() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4]])
    assert float(cross_entropy_sum(logits, torch.tensor([2]))) == 2e4


@pytest.mark.parametrize("shape", [(1,), (3, 5), (7, 33), (1000,)])
@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
def test_squared_norm_adds_in_float64(shape: Shape, strided: bool, dtype: torch.dtype) -> None:
    x = random_tensor(shape, dtype, strided, 1) * 1e3
    expected = math.fsum(v * v for v in x.flatten().tolist())
    assert squared_norm(x) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1,), (40,), (5, 33)])
def test_adamw_takes_the_steps_of_torch_in_float64(
    shape: Shape, decay: float, strided: bool
) -> None:
    weight = random_tensor(shape, torch.float32, strided, 0)
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    theirs = torch.nn.Parameter(weight.double())
    rates = [1e-3, 1e-2, 3e-3, 1e-4, 1e-3]
    optimizer = torch.optim.AdamW([theirs], betas=(0.8, 0.95), eps=1e-6, weight_decay=decay)
    for step, rate in enumerate(rates, start=1):
        gradient = random_tensor(shape, torch.float32, strided, step)
        adamw_step(
            weight, gradient, first, second, step=step, learning_rate=rate, beta1=0.8,
            beta2=0.95, epsilon=1e-6, weight_decay=decay,
        )  # fmt: skip
        optimizer.param_groups[0]["lr"] = rate
        theirs.grad = gradient.double()
        optimizer.step()
    state = optimizer.state[theirs]
    for ours, exact in ((weight, theirs), (first, state["exp_avg"]), (second, state["exp_avg_sq"])):
        torch.testing.assert_close(ours.double(), exact.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_has_a_definition_that_its_package_exports(operation: str) -> None:
    assert importlib.util.find_spec(f"kernels.{operation}.reference") is not None
    package = importlib.import_module(f"kernels.{operation}")
    reference = importlib.import_module(f"kernels.{operation}.reference")
    assert package.__all__
    for name in package.__all__:
        assert hasattr(reference, name), f"kernels/{operation}/reference.py does not define {name}"
        documented = getattr(reference, name)
        assert not callable(documented) or documented.__doc__
