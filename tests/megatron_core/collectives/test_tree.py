"""The tree against its brackets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.collectives import TreeAccumulator, tree_sum

FLOATS = st.floats(-1e6, 1e6, width=32)


def bracket(parts: list[torch.Tensor]) -> torch.Tensor:
    """The left half plus the right half."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return bracket(parts[:middle]) + bracket(parts[middle:])


def tensors(numbers: list[float]) -> list[torch.Tensor]:
    """Parts of three numbers each, of very different sizes."""
    return [torch.tensor([x, x * 1e-7, 1 / (abs(x) + 1e-3)]) for x in numbers]


def powers_of_two(largest: int) -> st.SearchStrategy[list[float]]:
    return st.integers(0, largest).flatmap(
        lambda height: st.lists(FLOATS, min_size=2**height, max_size=2**height)
    )


def test_the_brackets_of_eight() -> None:
    a, b, c, d, e, f, g, h = numbers = [1e8, 1.0, -1e8, 3.0, 1e-8, 7.0, 1e16, -1e16]
    assert tree_sum(numbers) == ((a + b) + (c + d)) + ((e + f) + (g + h))
    in_a_row = a + b + c + d + e + f + g + h
    assert tree_sum(numbers) != in_a_row


@given(powers_of_two(6))
def test_sum_and_accumulator_are_the_bracket_bit_for_bit(numbers: list[float]) -> None:
    expected = bracket(tensors(numbers))
    assert torch.equal(tree_sum(tensors(numbers)), expected)
    accumulator = TreeAccumulator()
    for part in tensors(numbers):
        accumulator.push(part)
        assert len(accumulator._subtrees) <= len(numbers).bit_length()
    assert torch.equal(accumulator.total(), expected)


@given(powers_of_two(5), st.integers(0, 5))
def test_aligned_blocks_are_nodes_of_the_tree(numbers: list[float], height: int) -> None:
    parts = tensors(numbers)
    block = min(2**height, len(parts))
    owners = [tree_sum(parts[i : i + block]) for i in range(0, len(parts), block)]
    assert torch.equal(tree_sum(owners), tree_sum(parts))


@pytest.mark.parametrize("count", [0, 3, 5, 6, 7, 12, 63])
def test_other_counts_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        tree_sum([1.0] * count)
    accumulator = TreeAccumulator()
    for part in tensors([1.0] * count):
        accumulator.push(part)
    with pytest.raises(ValueError, match="power"):
        accumulator.total()
