"""What each operation's definition promises beyond the values that every backend has."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

import kernels
import kernels.squared_norm.reference as squared_norm_reference
from kernels.cross_entropy import cross_entropy_sum
from kernels.linear import linear
from kernels.squared_norm import halving_sum_, squared_norms
from tests.formulas import (
    TOLERANCE,
    Shape,
    assert_follows,
    cross_entropy_formula,
    random_tensor,
    targets_for,
)

OPERATIONS = sorted(
    path.name
    for path in Path(kernels.__path__[0]).iterdir()
    if path.is_dir() and path.name != "__pycache__" and (path / "__init__.py").exists()
)


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "shapes", [[(2, 5, 16), (24, 16)], [(7, 33), (1, 33)], [(1, 1, 1), (3, 1)]]
)
def test_linear_is_differentiable(shapes: list[Shape], dtype: torch.dtype, strided: bool) -> None:
    inputs = [random_tensor(shape, dtype, strided, i) for i, shape in enumerate(shapes)]
    assert_follows(linear, lambda x, w: torch.einsum("...i,oi->...o", x, w), inputs)


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(2, 5, 16), (9, 3), (40, 101)])
def test_cross_entropy_is_that_of_the_formula(
    shape: Shape, dtype: torch.dtype, strided: bool
) -> None:
    logits = random_tensor(shape, dtype, strided, 3)
    targets = targets_for(logits)
    assert cross_entropy_sum(logits, targets).dtype == torch.float32
    assert_follows(
        lambda x: cross_entropy_sum(x, targets),
        lambda x: cross_entropy_formula(x, targets),
        [logits],
    )


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
