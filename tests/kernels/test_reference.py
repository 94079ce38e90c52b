"""Each operation's definition against its formula, written out in float64."""

from __future__ import annotations

import importlib.util
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import kernels
import kernels.squared_norm.reference as squared_norm_reference
from kernels.adamw import adamw_step
from kernels.attention import attention
from kernels.cross_entropy import IGNORED, cross_entropy_sum
from kernels.gelu import gelu
from kernels.layer_norm import layer_norm
from kernels.linear import add_weight_gradient, input_gradient, linear
from kernels.rms_norm import rms_norm
from kernels.rotary import apply_rotary, rotary_frequencies, rotary_table
from kernels.squared_norm import halving_sum_, squared_norms
from kernels.swiglu import swiglu

OPERATIONS = sorted(
    path.name
    for path in Path(kernels.__path__[0]).iterdir()
    if path.is_dir() and path.name != "__pycache__"
)
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2}
Shape = tuple[int, ...]


def table_for(x: Tensor) -> Tensor:
    return rotary_table(len(x) + 3, rotary_frequencies(x.shape[-1], 100.0))[:, :-3]


def attention_formula(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, window: int | None = None
) -> Tensor:
    """One row of one head at a time; the queries are the last positions of the keys."""
    length, batch, heads, _ = query.shape
    groups, before = heads // key.shape[2], len(key) - length
    rows = []
    for t in range(length):
        last = before + t + 1 if causal else len(key)
        seen = slice(max(0, last - window) if window else 0, last)
        for b in range(batch):
            for h in range(heads):
                scores = key[seen, b, h // groups] @ query[t, b, h] / math.sqrt(query.shape[3])
                share = (scores - scores.max()).exp()
                rows.append((share / share.sum()) @ value[seen, b, h // groups])
    return torch.stack(rows).view(query.shape)


def rms_norm_formula(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).sum(-1, keepdim=True) / x.shape[-1] + 0.1).sqrt() * weight


def layer_norm_formula(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = x.sum(-1, keepdim=True) / x.shape[-1]
    variance = ((x - mean) ** 2).sum(-1, keepdim=True) / x.shape[-1]
    return (x - mean) / (variance + 0.1).sqrt() * weight + bias


def gelu_formula(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def gelu_tanh_formula(x: Tensor) -> Tensor:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return x * (1 + (inner.exp() - (-inner).exp()) / (inner.exp() + (-inner).exp())) / 2


def rotary_formula(x: Tensor) -> Tensor:
    """Numbers i and i + size / 2 are one complex number, turned by position × theta^(-2i/size)."""
    half = x.shape[-1] // 2
    turned = []
    for position, row in enumerate(x):
        angles = torch.tensor([position * 100.0 ** (-i / half) for i in range(half)])
        z = torch.complex(row[..., :half], row[..., half:])
        z = z * torch.polar(torch.ones(half, dtype=torch.float64), angles.double())
        turned.append(torch.cat([z.real, z.imag], dim=-1))
    return torch.stack(turned)


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


# Query, key and value: alike, grouped heads, one key head, and fewer queries than keys.
ATTENTION: list[list[Shape]] = [
    [(7, 2, 4, 8)] * 3,
    [(9, 1, 6, 4), (9, 1, 2, 4), (9, 1, 2, 4)],
    [(33, 1, 2, 16), (33, 1, 1, 16), (33, 1, 1, 16)],
    [(1, 3, 1, 2)] * 3,
    [(5, 2, 4, 8), (20, 2, 2, 8), (20, 2, 2, 8)],
]
CASES = {
    "causal_attention": Case(
        partial(attention, causal=True), partial(attention_formula, causal=True), ATTENTION
    ),
    "full_attention": Case(
        partial(attention, causal=False), partial(attention_formula, causal=False), ATTENTION
    ),
    "window_attention": Case(
        partial(attention, causal=True, window=3),
        partial(attention_formula, causal=True, window=3),
        ATTENTION,
    ),
    "linear": Case(
        linear, lambda x, w: torch.einsum("...i,oi->...o", x, w),
        [[(2, 5, 16), (24, 16)], [(7, 33), (1, 33)], [(1, 1, 1), (3, 1)]],
    ),
    "rms_norm": Case(
        lambda x, weight: rms_norm(x, weight, 0.1),
        rms_norm_formula,
        [[(2, 5, 16), (16,)], [(7,), (7,)], [(33, 100), (100,)]],
    ),
    "layer_norm": Case(
        lambda x, weight, bias: layer_norm(x, weight, bias, 0.1),
        layer_norm_formula,
        [[(2, 5, 16), (16,), (16,)], [(7,), (7,), (7,)], [(33, 100), (100,), (100,)]],
    ),
    "gelu": Case(partial(gelu, tanh=False), gelu_formula, [[(2, 5, 16)], [(3, 33)], [(1,)]]),
    "gelu_tanh": Case(partial(gelu, tanh=True), gelu_tanh_formula, [[(2, 5, 16)], [(3, 33)]]),
    "rotary": Case(
        lambda x: apply_rotary(x, table_for(x)),
        rotary_formula,
        [[(11, 2, 3, 8)], [(1, 1, 1, 2)], [(40, 1, 2, 6)]],
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


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
@pytest.mark.parametrize("widths", [(24,), (24, 8, 40)])
def test_an_input_gradient_is_one_fp32_sum_over_the_layers(
    widths: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Of halves the products are exact in fp32, so only its own rounding may be seen."""
    gradients = [random_tensor((5, 3, n), dtype, False, n) for n in widths]
    weights = [random_tensor((n, 16), dtype, False, n + 1) for n in widths]
    ours = input_gradient(gradients, weights)
    exact = sum(g.double() @ w.double() for g, w in zip(gradients, weights, strict=True))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
def test_weight_gradients_are_added_in_fp32(dtype: torch.dtype) -> None:
    total = random_tensor((24, 16), torch.float32, False, 0)
    exact = total.double()
    for seed in range(1, 4):
        gradient = random_tensor((5, 3, 24), dtype, False, seed)
        x = random_tensor((5, 3, 16), dtype, False, seed + 10)
        add_weight_gradient(total, gradient, x)
        exact += torch.einsum("tbo,tbi->oi", gradient.double(), x.double())
    torch.testing.assert_close(total.double(), exact, rtol=1e-5, atol=1e-5)


def test_a_linear_layer_can_keep_its_fp32_sum() -> None:
    x, weight = (random_tensor(shape, torch.bfloat16, False, 1) for shape in ((5, 16), (24, 16)))
    wide = linear(x, weight, torch.float32)
    torch.testing.assert_close(wide.double(), x.double() @ weight.double().T, rtol=1e-5, atol=1e-5)
    assert torch.equal(wide.bfloat16(), linear(x, weight))


def test_cross_entropy_is_finite_where_exp_is_not() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4]])
    assert float(cross_entropy_sum(logits, torch.tensor([2]))) == 2e4


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 33), (1, 1000), (2, 1)])
@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
def test_squared_norms_add_in_float64(shape: Shape, strided: bool, dtype: torch.dtype) -> None:
    x = random_tensor(shape, dtype, strided, 1) * 1e3
    expected = [math.fsum(v * v for v in row) for row in x.tolist()]
    assert squared_norms(x).tolist() == pytest.approx(expected, rel=1e-14)


def test_a_row_has_one_norm_whatever_is_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random_tensor((9, 1000), torch.float32, False, 1)
    alone = torch.cat([squared_norms(row[None]) for row in x])
    assert torch.equal(squared_norms(x), alone)
    monkeypatch.setattr(squared_norm_reference, "_AT_ONCE", 2000)
    assert torch.equal(squared_norms(x), alone)


def test_halves_are_added_in_the_order_that_is_told() -> None:
    a, b, c, d, e = (1e16, 1.0, -1e16, 3.0, -1.0)
    x = torch.tensor([a, b, c, d, e], dtype=torch.float64)
    assert halving_sum_(x.clone()) == ((a + d) + c) + (b + e)
    assert halving_sum_(x[:0]) == 0.0


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
