"""The operations of kernels/ at the shapes of a training, and what none of them can spare.

Each is run forward and backward. Only products count as arithmetic; bytes are those of every
operand moved once in each direction, with nothing kept but inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import kernels
from benchmarks.floors import Cost
from benchmarks.turns import Step
from kernels import registry
from kernels.dropout import dropout_key
from kernels.rotary import rotary_frequencies, rotary_table
from megatron_core.config import ModelConfig
from megatron_core.planning.parameters import parameters

BLOCK = 16_384  # numbers of one squared norm


@dataclass(frozen=True)
class Setting:
    """A microbatch ``[length, batch]`` of a model, in ``dtype`` on ``device``."""

    model: ModelConfig
    length: int
    batch: int
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @property
    def tokens(self) -> int:
        return self.length * self.batch

    def draw(self, *shape: int, grad: bool = True, dtype: torch.dtype | None = None) -> Tensor:
        x = torch.randn(shape, device=self.device, dtype=dtype or self.dtype)
        return x.requires_grad_(grad)

    def moved(self, count: float) -> float:
        """Bytes of ``count`` numbers."""
        return count * self.dtype.itemsize


@dataclass(frozen=True)
class Case:
    """One operation at one shape: ``step`` runs it as a backend's module has it."""

    shape: str
    cost: Cost
    step: Callable[[ModuleType], Step]


def operations() -> list[str]:
    """The folders of kernels/."""
    (root,) = kernels.__path__
    return sorted(path.parent.name for path in Path(root).glob("*/reference.py"))


def backends(operation: str, s: Setting) -> dict[str, ModuleType]:
    """The backends of ``operation`` that can be used; it says which cannot, and why."""
    found = {registry.REFERENCE: import_module(f"kernels.{operation}.reference")}
    for name in registry.backends(operation)[1:]:
        obstacle = registry.support(operation, name).obstacle(s.device, s.dtype)
        if obstacle is None:
            found[name] = import_module(f"kernels.{operation}.{name}")
        else:
            print(f"{operation}: {name} is left out: {obstacle}")
    return found


def both_ways(forward: Callable[[], Tensor], inputs: Sequence[Tensor]) -> Step:
    """``forward`` and its backward pass."""
    gradient = torch.randn_like(forward())
    return lambda _: torch.autograd.grad(forward(), inputs, gradient)


def attention(s: Setting) -> Case:
    """Causal; the backward pass makes the scores again: five products for two."""
    m, pairs = s.model, s.length * (s.length + 1) // 2
    query = s.draw(s.length, s.batch, m.heads, m.head_size)
    key, value = (s.draw(s.length, s.batch, m.kv_heads, m.head_size) for _ in range(2))
    # Forward q, k, v, o; backward q, k, v, o and do, then dq, dk, dv.
    moved = s.moved(s.tokens * 6 * (m.query_width + m.key_width))
    return Case(
        f"{s.length} × {s.batch} × {m.heads} × {m.head_size}",
        Cost(14 * s.batch * m.query_width * pairs, moved),
        lambda k: both_ways(
            lambda: k.attention(query, key, value, causal=True), (query, key, value)
        ),
    )


def _norm(s: Setting, run: Callable[[ModuleType, Tensor, Tensor, Tensor], Tensor]) -> Case:
    hidden = s.model.hidden
    x, weight, bias = s.draw(s.length, s.batch, hidden), s.draw(hidden), s.draw(hidden)
    # Forward x, y; backward x, dy, dx.
    return Case(
        f"{s.tokens} × {hidden}",
        Cost(bytes=s.moved(5 * s.tokens * hidden)),
        lambda k: both_ways(lambda: run(k, x, weight, bias), (x, weight)),
    )


def rms_norm(s: Setting) -> Case:
    return _norm(s, lambda k, x, weight, _: k.rms_norm(x, weight, 1e-5))


def layer_norm(s: Setting) -> Case:
    return _norm(s, lambda k, x, weight, bias: k.layer_norm(x, weight, bias, 1e-5))


def rotary(s: Setting) -> Case:
    m = s.model
    table = rotary_table(s.length, rotary_frequencies(m.head_size, m.rope_theta)).to(s.device)
    x = s.draw(s.length, s.batch, m.heads, m.head_size)
    return Case(
        f"{s.length} × {s.batch} × {m.heads} × {m.head_size}",
        Cost(bytes=s.moved(4 * x.numel()) + 8 * table.numel()),
        lambda k: both_ways(lambda: k.apply_rotary(x, table), (x,)),
    )


def swiglu(s: Setting) -> Case:
    gate, up = (s.draw(s.length, s.batch, s.model.ffn) for _ in range(2))
    # Forward gate, up, y; backward gate, up, dy and both gradients.
    return Case(
        f"{s.tokens} × {s.model.ffn}",
        Cost(bytes=s.moved(8 * gate.numel())),
        lambda k: both_ways(lambda: k.swiglu(gate, up), (gate, up)),
    )


def gelu(s: Setting) -> Case:
    x = s.draw(s.length, s.batch, s.model.ffn)
    return Case(
        f"{s.tokens} × {s.model.ffn}",
        Cost(bytes=s.moved(5 * x.numel())),
        lambda k: both_ways(lambda: k.gelu(x, tanh=False), (x,)),
    )


def dropout(s: Setting) -> Case:
    """Its masks can be drawn twice, so nothing but numbers need be moved."""
    x = s.draw(s.length, s.batch, s.model.hidden)
    keys = [
        [dropout_key(1, step=1, sample=b, layer=0, site="ffn", chunk=0, slice=0)]
        for b in range(s.batch)
    ]
    return Case(
        f"{s.tokens} × {s.model.hidden}",
        Cost(bytes=s.moved(4 * x.numel())),
        lambda k: both_ways(lambda: k.dropout(x, 0.1, keys), (x,)),
    )


def linear(s: Setting) -> Case:
    """The product and both gradients; that of the weight is added to an fp32 sum."""
    hidden, ffn = s.model.hidden, s.model.ffn
    x, gradient = (s.draw(s.length, s.batch, width, grad=False) for width in (hidden, ffn))
    weight, total = s.draw(ffn, hidden, grad=False), torch.zeros(ffn, hidden, device=s.device)

    def step(k: ModuleType) -> Step:
        def run(_: int) -> Any:
            k.linear(x, weight)
            k.input_gradient([gradient], [weight])
            k.add_weight_gradient(total, gradient, x)

        return run

    # y = x Wᵀ; dx = dy W in fp32; W's sum is read and written.
    numbers = 2 * x.numel() + 3 * gradient.numel() + 2 * weight.numel()
    return Case(
        f"{s.tokens} × {hidden} to {ffn}",
        Cost(6 * s.tokens * hidden * ffn, s.moved(numbers) + 4 * (x.numel() + 2 * total.numel())),
        step,
    )


def cross_entropy(s: Setting) -> Case:
    logits = s.draw(s.length, s.batch, s.model.vocabulary)
    targets = torch.randint(s.model.vocabulary, (s.length, s.batch), device=s.device)
    return Case(
        f"{s.tokens} × {s.model.vocabulary}",
        Cost(bytes=s.moved(3 * logits.numel())),
        lambda k: both_ways(lambda: k.cross_entropy_sum(logits, targets), (logits,)),
    )


def linear_cross_entropy(s: Setting) -> Case:
    """The head's product, its loss and both gradients, without the logits."""
    hidden, classes = s.model.hidden, s.model.vocabulary
    x, weight = s.draw(s.tokens, hidden, grad=False), s.draw(classes, hidden, grad=False)
    targets = torch.randint(classes, (s.tokens,), device=s.device)
    total = torch.zeros(classes, hidden, device=s.device)

    def step(k: ModuleType) -> Step:
        return lambda _: k.linear_cross_entropy(
            x, weight, targets, scale=1.0, weight_gradient=total
        )

    return Case(
        f"{s.tokens} × {hidden} to {classes}",
        Cost(6 * x.numel() * classes, s.moved(2 * x.numel() + weight.numel()) + 8 * total.numel()),
        step,
    )


def adamw(s: Setting) -> Case:
    """One pass over fp32 weights, gradient and moments."""
    count = parameters(s.model)
    state = [s.draw(count, grad=False, dtype=torch.float32).abs_() for _ in range(4)]
    return Case(
        f"{count:,}",
        Cost(bytes=4 * 7 * count),
        lambda k: lambda number: k.adamw_step(
            *state, step=number, learning_rate=1e-3, beta1=0.9, beta2=0.95, epsilon=1e-8,
            weight_decay=0.1,
        ),
    )  # fmt: skip


def squared_norm(s: Setting) -> Case:
    rows = -(-parameters(s.model) // BLOCK)
    x = s.draw(rows, BLOCK, grad=False, dtype=torch.float32)
    return Case(
        f"{rows} × {BLOCK}",
        Cost(bytes=4 * x.numel()),
        lambda k: lambda _: k.squared_norms(x),
    )


CASES: dict[str, Callable[[Setting], Case]] = {
    case.__name__: case
    for case in (
        adamw, attention, cross_entropy, dropout, gelu, layer_norm, linear, linear_cross_entropy,
        rms_norm, rotary, squared_norm, swiglu,
    )
}  # fmt: skip
