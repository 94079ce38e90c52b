"""Each operation's formula, written out in float64, and inputs to compare a backend with it on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.cross_entropy import IGNORED
from kernels.registry import Kernels
from kernels.rotary import rotary_frequencies, rotary_table

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2}
Shape = tuple[int, ...]


def table_for(x: Tensor) -> Tensor:
    table = rotary_table(len(x) + 3, rotary_frequencies(x.shape[-1], 100.0))[:, :-3]
    return table.to(x.device)


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
    targets = torch.arange(count, device=logits.device) * 7 % logits.shape[-1]
    targets[::3] = IGNORED
    return targets.view(logits.shape[:-1])


def cross_entropy_formula(logits: Tensor, targets: Tensor) -> Tensor:
    total = logits.new_zeros(())
    for row, target in zip(logits.flatten(0, -2), targets.flatten().tolist(), strict=True):
        if target >= 0:
            total = total + (row - row[target]).exp().sum().log()
    return total


@dataclass(frozen=True)
class Case:
    """A differentiable operation of tensors alone, its formula, and shapes of its inputs."""

    operation: str
    call: Callable[..., Tensor]  # of a backend's functions and the tensors
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


def attention_case(causal: bool, window: int | None = None) -> Case:
    def call(kernels: Kernels, *x: Tensor) -> Tensor:
        return kernels.attention(*x, causal=causal, window=window)

    def formula(*x: Any) -> Tensor:
        return attention_formula(*x, causal=causal, window=window)

    return Case("attention", call, formula, ATTENTION)


CASES = {
    "causal_attention": attention_case(causal=True),
    "full_attention": attention_case(causal=False),
    "window_attention": attention_case(causal=True, window=3),
    "rms_norm": Case(
        "rms_norm",
        lambda kernels, x, weight: kernels.rms_norm(x, weight, 0.1),
        rms_norm_formula,
        [[(2, 5, 16), (16,)], [(7,), (7,)], [(33, 100), (100,)]],
    ),
    "layer_norm": Case(
        "layer_norm",
        lambda kernels, x, weight, bias: kernels.layer_norm(x, weight, bias, 0.1),
        layer_norm_formula,
        [[(2, 5, 16), (16,), (16,)], [(7,), (7,), (7,)], [(33, 100), (100,), (100,)]],
    ),
    "gelu": Case(
        "gelu",
        lambda kernels, x: kernels.gelu(x, tanh=False),
        gelu_formula,
        [[(2, 5, 16)], [(3, 33)], [(1,)]],
    ),
    "gelu_tanh": Case(
        "gelu",
        lambda kernels, x: kernels.gelu(x, tanh=True),
        gelu_tanh_formula,
        [[(2, 5, 16)], [(3, 33)]],
    ),
    "rotary": Case(
        "rotary",
        lambda kernels, x: kernels.apply_rotary(x, table_for(x)),
        rotary_formula,
        [[(11, 2, 3, 8)], [(1, 1, 1, 2)], [(40, 1, 2, 6)]],
    ),
    "swiglu": Case(
        "swiglu",
        lambda kernels, gate, up: kernels.swiglu(gate, up),
        swiglu_formula,
        [[(2, 5, 16)] * 2, [(3, 33)] * 2, [(1,)] * 2],
    ),
}


def random_tensor(
    shape: Shape, dtype: torch.dtype, strided: bool, seed: int, device: str = "cpu"
) -> Tensor:
    """Normal draws; strided ones are every second number of a wider tensor."""
    generator = torch.Generator().manual_seed(seed)
    if not strided:
        return torch.randn(shape, generator=generator).to(device, dtype)
    wide = torch.randn(*shape[:-1], 2 * shape[-1], generator=generator).to(device, dtype)
    return wide[..., ::2]


def assert_follows(
    operation: Callable[..., Tensor], formula: Callable[..., Tensor], inputs: Sequence[Tensor]
) -> None:
    """The result and the gradients of ``inputs``, as exact as their dtype allows."""
    tolerance = TOLERANCE[inputs[0].dtype]
    ours = [x.requires_grad_() for x in inputs]
    exact = [x.detach().cpu().double().requires_grad_() for x in ours]
    result, expected = operation(*ours), formula(*exact)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    upstream = upstream.to(result.dtype)
    result.backward(upstream.to(result.device))
    expected.backward(upstream.double())
    torch.testing.assert_close(result.cpu().double(), expected, rtol=tolerance, atol=tolerance)
    for x, wanted in zip(ours, exact, strict=True):
        assert x.grad is not None
        assert wanted.grad is not None
        assert x.grad.dtype == x.dtype
        scale = float(wanted.grad.abs().max())
        torch.testing.assert_close(
            x.grad.cpu().double(), wanted.grad, rtol=tolerance, atol=tolerance * max(1.0, scale)
        )
