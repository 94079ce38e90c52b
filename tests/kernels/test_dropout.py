"""Dropout: masks of the right share, numbered rather than drawn in turn."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from kernels.dropout import dropout, dropout_key

# What a key has meant so far; a change here changes every training run with dropout.
KNOWN = 1705490033043953471

PARTS = {"seed": 3, "step": 5, "sample": 7, "layer": 2, "site": "ffn", "chunk": 1, "slice": 0}


def key_of(**changes: object) -> int:
    parts = {**PARTS, **changes}
    return dropout_key(parts.pop("seed"), **parts)  # type: ignore[arg-type]


def keys_for(samples: range, slices: range) -> list[list[int]]:
    return [[key_of(sample=i, slice=j) for j in slices] for i in samples]


def mask(length: int, hidden: int, rate: float, **changes: object) -> Tensor:
    """What is kept of one sample in one slice: bool ``[length * hidden]``."""
    ones = torch.ones(length, 1, hidden)
    return dropout(ones, rate, [[key_of(**changes)]]).flatten() > 0


@pytest.mark.parametrize("rate", [0.03, 0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_is_the_rate(rate: float) -> None:
    kept = mask(512, 256, rate)
    deviations = (float(kept.float().mean()) - (1 - rate)) / math.sqrt(rate * (1 - rate) / 2**17)
    assert abs(deviations) < 4


@pytest.mark.parametrize("lag", [1, 2, 16, 256, 257])
def test_neighbours_are_dropped_independently(lag: int) -> None:
    """The correlation at a lag, of 2^17 pairs, in standard deviations."""
    centred = mask(512, 256, 0.5).float() - 0.5
    correlation = 4 * float((centred[lag:] * centred[:-lag]).mean())
    assert abs(correlation) * math.sqrt(2**17) < 4


@pytest.mark.parametrize(
    "change",
    [{"seed": 4}, {"step": 6}, {"sample": 8}, {"layer": 3}, {"site": "attention"}, {"chunk": 0},
     {"slice": 1}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_mask_tells_nothing_of_the_next_one(change: dict[str, object]) -> None:
    one, other = mask(64, 256, 0.5), mask(64, 256, 0.5, **change)
    agreement = float((one == other).float().mean())
    assert abs(agreement - 0.5) * 2 * math.sqrt(64 * 256) < 4


def test_keys_are_told_apart_and_stay() -> None:
    seen = {
        key_of(step=step, sample=sample, layer=layer, slice=piece)
        for step, sample, layer, piece in itertools.product(range(12), repeat=4)
    }
    assert len(seen) == 12**4
    assert min(seen) >= 0
    assert max(seen) < 2**63
    assert key_of(step=1, sample=11) != key_of(step=11, sample=1)
    assert key_of() == KNOWN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("slices", [1, 2, 4])
def test_the_bits_do_not_depend_on_who_holds_a_piece(slices: int, dtype: torch.dtype) -> None:
    x = torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    whole = x.clone().requires_grad_()
    dropped = dropout(whole, 0.3, keys_for(range(3), range(slices)))
    upstream = torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    dropped.backward(upstream)
    assert whole.grad is not None
    length = 8 // slices
    for sample, number in itertools.product(range(3), range(slices)):
        place = (slice(number * length, (number + 1) * length), slice(sample, sample + 1))
        piece = x[place].clone().requires_grad_()
        keys = keys_for(range(sample, sample + 1), range(number, number + 1))
        result = dropout(piece, 0.3, keys)
        result.backward(upstream[place])
        assert piece.grad is not None
        assert torch.equal(result, dropped[place])
        assert torch.equal(piece.grad, whole.grad[place])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_kept_is_scaled_once_and_so_is_its_gradient(dtype: torch.dtype) -> None:
    x = torch.randn(64, 2, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    x.requires_grad_()
    keys = keys_for(range(2), range(4))
    result = dropout(x, 0.1, keys)
    kept = dropout(torch.ones_like(x), 0.1, keys) > 0
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    result.backward(upstream)
    for ours, given in ((result, x), (x.grad, upstream)):
        assert ours is not None
        exact = torch.where(kept, given.double() / 0.9, 0.0)
        rounding = torch.finfo(dtype).eps / 2 + 1e-7  # of the result and of an fp32 factor
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), exact, rtol=rounding, atol=0)


def test_strided_inputs_and_global_draws_change_nothing() -> None:
    x = torch.randn(3, 8, 5).transpose(0, 1)
    keys = keys_for(range(3), range(2))
    state = torch.get_rng_state()
    first = dropout(x, 0.4, keys)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(10)
    assert torch.equal(dropout(x.contiguous(), 0.4, keys), first)


def test_nothing_is_drawn_at_rate_zero() -> None:
    x = torch.randn(2, 1, 3)
    assert dropout(x, 0.0, [[1]]) is x


@pytest.mark.parametrize(
    ("shape", "rate", "keys"),
    [
        ((4, 2, 3), 1.0, [[1], [2]]),
        ((4, 2, 3), -0.1, [[1], [2]]),
        ((4, 2, 3), 0.1, [[1]]),
        ((4, 2, 3), 0.1, [[1, 2, 3]] * 2),
        ((4, 2, 3), 0.1, [[1, 2], [3]]),
        ((4, 2, 3), 0.1, [[], []]),
    ],
)
def test_what_does_not_fit_is_refused(
    shape: tuple[int, ...], rate: float, keys: list[list[int]]
) -> None:
    with pytest.raises(ValueError, match=r"dropout rate must be|needs keys for 2 samples"):
        dropout(torch.ones(shape), rate, keys)
