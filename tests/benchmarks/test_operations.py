"""What each operation cannot spare, counted by hand, and that all of them run."""

from __future__ import annotations

from itertools import count

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.floors import Cost, Rates, moving
from benchmarks.kernels import HEADER, roofline
from benchmarks.operations import CASES, Setting, backends, operations
from megatron_core.config import ModelConfig
from megatron_core.planning.parameters import parameters

MODEL = ModelConfig(vocabulary=96, positions=16, layers=2, hidden=32, heads=4, kv_heads=2, ffn=48)
SETTING = Setting(MODEL, length=16, batch=2)
HIDDEN, FFN, QUERY, KEY = 32 * 32, 32 * 48, 32 * 32, 32 * 16  # numbers in 16 × 2 tokens

# Forward: what is read and written; backward: what is read, with the gradient, and written.
MOVED = {
    "adamw": (4 + 3) * parameters(MODEL),
    "attention": (QUERY + 2 * KEY + QUERY) + (QUERY + 2 * KEY + 2 * QUERY + QUERY + 2 * KEY),
    "cross_entropy": 1 * 32 * 96 + 2 * 32 * 96,
    "dropout": 2 * HIDDEN + 2 * HIDDEN,
    "gelu": 2 * FFN + 3 * FFN,
    "layer_norm": 2 * HIDDEN + 3 * HIDDEN,
    "linear": (HIDDEN + 32 * 48 + FFN) + (FFN + 32 * 48 + HIDDEN) + (FFN + HIDDEN + 2 * 32 * 48),
    "linear_cross_entropy": 2 * HIDDEN + 3 * 32 * 96,
    "rms_norm": 2 * HIDDEN + 3 * HIDDEN,
    "rotary": 2 * QUERY + 2 * QUERY + 2 * (2 * 16 * 8),
    "squared_norm": -(-parameters(MODEL) // 16_384) * 16_384,
    "swiglu": 3 * FFN + 5 * FFN,
}


@pytest.mark.parametrize("operation", operations())
def test_every_backend_runs(operation: str) -> None:
    if operation not in CASES:
        pytest.skip("benchmarks/operations.py has no case of it")
    case = CASES[operation](SETTING)
    for module in backends(operation, SETTING).values():
        case.step(module)(1)


@pytest.mark.parametrize("operation", sorted(CASES))
def test_bytes_are_those_of_every_operand_moved_once(operation: str) -> None:
    assert CASES[operation](SETTING).cost.bytes == 4 * MOVED[operation]


def test_products_are_counted_as_torch_counts_them() -> None:
    x, weight = torch.ones(32, 32, requires_grad=True), torch.ones(48, 32, requires_grad=True)
    with FlopCounterMode(display=False) as counted:
        F.linear(x, weight).sum().backward()
    assert CASES["linear"](SETTING).cost.flops == counted.get_total_flops()


def test_attention_counts_what_a_decoder_sees() -> None:
    """Seven products for each pair of a query and a key that it sees: two forward."""
    pairs = sum(1 for query in range(16) for key in range(16) if key <= query)
    assert CASES["attention"](SETTING).cost.flops == 7 * 2 * 2 * 4 * 8 * pairs


def test_floors_are_by_arithmetic_and_by_bytes() -> None:
    assert Cost(flops=6e9, bytes=1e9).floors(Rates(flops=2e9, bytes=4e9)) == (3.0, 0.25)


def test_a_copy_reads_and_writes_half_of_its_bytes_each() -> None:
    assert moving(8_000)(1).nbytes == 4_000


def test_the_table_has_every_backend_beside_its_floors() -> None:
    seconds = count()
    rates = Rates(flops=1e9, bytes=1e9)
    rows = roofline(SETTING, 1, rates=rates, repeats=4, clock=lambda: float(next(seconds)))
    assert {(row[0], row[2]) for row in rows} == {
        (operation, backend)
        for operation in operations()
        if operation in CASES
        for backend in backends(operation, SETTING)
    }
    (linear,) = (row for row in rows if row[0] == "linear" and row[2] == "reference")
    found = dict(zip(HEADER, linear, strict=True))
    assert found["floor by arithmetic, ms"] == f"{6 * 32 * 32 * 48 / 1e6:.3f}"
    assert found["floor by bytes, ms"] == f"{4 * MOVED['linear'] / 1e6:.3f}"
    assert found["time, ms"] == "250.000"  # a second for four
    assert found["over the floor"] == f"{250 / (6 * 32 * 32 * 48 / 1e6):.2f}"
