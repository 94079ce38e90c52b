"""What our trainer reads and writes beside products, counted operation by operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import kernels.linear.reference
from kernels.cross_entropy import cross_entropy_sum
from kernels.rotary import apply_rotary, rotary_frequencies, rotary_table
from megatron_core.config import KernelsConfig, ModelConfig, PretrainConfig
from megatron_core.model import LanguageModel, Place, Share
from megatron_core.model.block import Block
from megatron_core.parallel.batch import Batch
from megatron_core.parallel.engine import Engine
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.planning.presets import preset_names, read_preset
from megatron_core.planning.software import Elementwise, Software
from tests.memory import Forgetful

PRODUCTS = (
    "mm", "addmm", "bmm", "scaled_dot_product", "empty", "detach", "alias", "view", "lift_fresh",
)  # fmt: skip
LENGTH, BATCH = 64, 2


class Moved(TorchDispatchMode):
    """Bytes that operations read and write, products and views apart."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if not func.is_view and not any(word in name for word in PRODUCTS):
            self.bytes += sum(self._size(x) for x in tree_leaves((args, kwargs, out)))
        return out

    @staticmethod
    def _size(x: Any) -> int:
        if not isinstance(x, Tensor):
            return 0
        stretched = [n for n, stride in zip(x.shape, x.stride(), strict=True) if stride == 0]
        return x.nbytes // max(1, torch.Size(stretched).numel())


def moved(work: Callable[[], object]) -> int:
    with Moved() as counted:
        work()
    return counted.bytes


def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """As on a GPU, where halves are not multiplied as floats."""
    with torch.utils._python_dispatch._disable_current_modes():
        return torch.mm(a, b).to(dtype)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """As on a GPU: the product of halves is written as fp32, then added."""
    with torch.utils._python_dispatch._disable_current_modes():
        fp32 = torch.mm(a, b).float()
    total.add_(fp32)


def block(hidden: int, ffn: int, dtype: torch.dtype) -> tuple[float, float]:
    """Numbers that one token's pass through a block moves, forward and backward."""
    config = ModelConfig(hidden=hidden, ffn=ffn, heads=4, kv_heads=4, positions=LENGTH)
    made = Block(config, Share(), 0)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=dtype) * 0.02
    table = rotary_table(LENGTH, rotary_frequencies(config.head_size, 1e4))
    x = torch.randn(LENGTH, BATCH, hidden, dtype=dtype, requires_grad=True)
    results: list[Tensor] = []
    place = Place(leaf=Forgetful())
    forward = moved(lambda: results.extend(made([x], [place], [table])))
    gradient = torch.ones_like(x)
    backward = moved(lambda: torch.autograd.backward(results, [gradient]))
    scale = LENGTH * BATCH * x.element_size()
    return forward / scale, backward / scale


def rotary(dtype: torch.dtype) -> tuple[float, float]:
    x = torch.randn(LENGTH, BATCH, 4, 16, dtype=dtype, requires_grad=True)
    table = rotary_table(LENGTH, rotary_frequencies(16, 1e4))
    results: list[Tensor] = []
    forward = moved(lambda: results.append(apply_rotary(x, table)))
    gradient = torch.ones_like(x)
    backward = moved(lambda: results[0].backward(gradient))
    return forward / x.nbytes, backward / x.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "half"])
def test_passes_of_a_block(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.linear.reference, "_product", product)
    monkeypatch.setattr(kernels.linear.reference, "_add_product", add_product)
    told = told_of(dtype)
    both = zip(block(64, 96, dtype), block(64, 192, dtype), rotary(dtype), strict=True)
    for direction, (narrow, wide, turned) in zip(("forward", "backward"), both, strict=True):
        ffn = (wide - narrow) / 96
        residual = (narrow - 96 * ffn) / 64 - 2 * turned
        assert getattr(told.ffn, direction) == pytest.approx(ffn, rel=0.1)
        assert getattr(told.projected, direction) == pytest.approx(turned, rel=0.1)
        assert getattr(told.residual, direction) == pytest.approx(residual, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "half"])
def test_bytes_of_the_logits(dtype: torch.dtype) -> None:
    logits = torch.randn(LENGTH, BATCH, 512, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 512, (LENGTH, BATCH))
    counted = moved(lambda: cross_entropy_sum(logits, targets).backward()) / logits.numel()
    # Picking the targets reads a few of the logarithms, not all.
    picked = 2 * 4
    assert told_of(dtype).logits == pytest.approx(counted - picked, rel=0.1)


def test_bytes_of_the_optimizer() -> None:
    config = PretrainConfig(
        model=ModelConfig(vocabulary=256, layers=1, hidden=128, heads=4, kv_heads=4, ffn=384),
        sequence_length=8,
        kernels=KernelsConfig(default="reference"),
    )
    with open_mesh(Layout(), "cpu", 1) as mesh:
        engine = Engine(lambda share: LanguageModel(config.model, share), config, mesh,
                        model=config.model)  # fmt: skip
        tokens = torch.zeros(4, 8, dtype=torch.int64)
        engine.gradient(lambda samples: Batch(tokens, tokens, 32), 1)
        weights = sum(bucket.state.weights.numel() for bucket in engine.buckets)

        def end() -> None:
            for bucket in engine.buckets:
                bucket.gradient.div_(2.0)
            engine.measure(checksums=True)
            engine.update(step=1, rate=1e-3, coefficient=0.5)

        counted = moved(end) / weights
    assert told_of(torch.float32).optimizer == pytest.approx(counted, rel=0.1)


def told_of(dtype: torch.dtype) -> Elementwise:
    software = read_preset(Software, "software", "reforge")
    return software.elementwise("fp32" if dtype == torch.float32 else "bf16")


@pytest.mark.parametrize("name", preset_names("software"))
def test_every_description_says_where_it_is_from(name: str) -> None:
    assert len(read_preset(Software, "software", name).source) > 40
