"""Triton's kernels where one tile does not hold everything, against float64."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

import kernels.layer_norm.triton as norms
import kernels.linear_cross_entropy.triton as heads
import kernels.triton
from kernels.cross_entropy import IGNORED
from kernels.registry import load
from tests.formulas import (
    TOLERANCE,
    assert_follows,
    cross_entropy_formula,
    layer_norm_formula,
    random_tensor,
)

pytestmark = pytest.mark.skipif(kernels.triton.triton is None, reason="Triton is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
REFERENCE = load({}).attention


@pytest.mark.parametrize(
    ("length", "keys", "heads", "causal", "window", "dtype"),
    [
        (70, 130, (2, 1), True, None, torch.float32),
        (130, 130, (1, 1), True, 20, torch.float32),
        (70, 200, (1, 1), True, 70, torch.bfloat16),
        (65, 40, (2, 2), False, 3, torch.float32),
        (1, 65, (1, 1), True, 1, torch.float32),
    ],
)
def test_attention_goes_over_several_tiles(
    length: int, keys: int, heads: tuple[int, int], causal: bool, window: int | None,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    inputs = [
        # Batch and heads first, as a projection that was transposed leaves them.
        random_tensor((2, each, count, 8), dtype, False, seed, DEVICE).permute(2, 0, 1, 3)
        for seed, (count, each) in enumerate(
            [(length, heads[0]), (keys, heads[1]), (keys, heads[1])]
        )
    ]
    attention = load({"attention": "triton"}).attention
    assert_follows(
        lambda *x: attention(*x, causal=causal, window=window),
        lambda *x: REFERENCE(*x, causal=causal, window=window),
        inputs,
    )


def test_attention_leaves_other_masks_and_large_heads_to_the_reference() -> None:
    attention = load({"attention": "triton"}).attention
    query = random_tensor((3, 2, 1, 8), torch.float32, False, 0, DEVICE)
    seen = torch.eye(3, device=DEVICE).bool().expand(2, 3, 3)
    assert torch.equal(attention(query, query, query, causal=True, seen=seen), query)
    wide = random_tensor((3, 1, 1, 300), torch.float32, False, 0, DEVICE)
    expected = REFERENCE(wide, wide, wide, causal=True)
    assert torch.equal(attention(wide, wide, wide, causal=True), expected)


def test_weight_gradients_of_a_norm_are_added_over_programs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels.triton, "NUMBERS", 16)
    monkeypatch.setattr(norms, "_TILES", 3)
    shapes = [(29, 7), (7,), (7,)]
    inputs = [random_tensor(s, torch.float32, False, i, DEVICE) for i, s in enumerate(shapes)]
    layer_norm = load({"layer_norm": "triton"}).layer_norm
    assert_follows(lambda *x: layer_norm(*x, 0.1), layer_norm_formula, inputs)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
def test_a_head_goes_over_several_blocks_of_rows_and_of_classes(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "_AT_ONCE", 16 * 45)
    monkeypatch.setattr(heads, "NUMBERS", 16)
    x, weight, bias = (
        random_tensor(shape, dtype, False, seed, DEVICE)
        for seed, shape in enumerate([(37, 8), (45, 8), (45,)])
    )
    targets = torch.arange(37, device=DEVICE) * 7 % 45
    targets[5:30:3] = IGNORED
    exact = [v.cpu().double().requires_grad_() for v in (x, weight, bias)]
    expected = cross_entropy_formula(exact[0] @ exact[1].T + exact[2], targets.cpu())
    wanted = torch.autograd.grad(expected, exact)
    held = torch.zeros(45, 8, device=DEVICE)
    head = load({"linear_cross_entropy": "triton"}).linear_cross_entropy
    loss, of_x, of_bias = head(x, weight, targets, bias, scale=1.0, weight_gradient=held)
    tolerance = TOLERANCE[dtype]
    pairs: list[tuple[Tensor, Tensor]] = [(loss, expected.detach())]
    pairs += zip((of_x, held, of_bias), wanted, strict=True)
    for ours, value in pairs:
        scale = float(value.abs().max())
        torch.testing.assert_close(
            ours.cpu().double(), value, rtol=tolerance, atol=tolerance * max(1.0, scale)
        )


def test_without_triton_the_install_command_is_told() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from kernels import registry\n"
        "for name in registry.OPERATIONS:\n"
        "    if 'triton' in registry.backends(name):\n"
        "        print(registry.support(name, 'triton').obstacle('cuda', torch.bfloat16))\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = told.stdout.splitlines()
    assert len(lines) == 8
    assert set(lines) == {"it needs Triton: pip install 'reforge-llm[triton]'"}
