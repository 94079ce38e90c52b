"""Routing against the papers' formulas, other implementations, and float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.models.mixtral import modeling_mixtral
from transformers.models.olmoe import modeling_olmoe
from transformers.models.qwen3_moe import modeling_qwen3_moe

from megatron_core.config import ExpertsConfig
from megatron_core.model.routing import (
    assign,
    attach,
    balance_loss,
    combine,
    dispatch,
    route,
    z_loss,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def settings_for(count: int, chosen: int, normalize: bool = True) -> ExpertsConfig:
    return ExpertsConfig(count=count, chosen=chosen, normalize=normalize)


@pytest.mark.parametrize(
    ("router", "config", "normalize"),
    [
        (
            modeling_mixtral.MixtralTopKRouter,
            modeling_mixtral.MixtralConfig(
                hidden_size=16, num_local_experts=8, num_experts_per_tok=2
            ),
            True,
        ),
        *[
            (
                modeling_olmoe.OlmoeTopKRouter,
                modeling_olmoe.OlmoeConfig(
                    hidden_size=16, num_experts=8, num_experts_per_tok=2, norm_topk_prob=flag
                ),
                flag,
            )
            for flag in (False, True)
        ],
        *[
            (
                modeling_qwen3_moe.Qwen3MoeTopKRouter,
                modeling_qwen3_moe.Qwen3MoeConfig(
                    hidden_size=16, num_experts=8, num_experts_per_tok=2, norm_topk_prob=flag
                ),
                flag,
            )
            for flag in (False, True)
        ],
    ],
)
def test_the_choice_is_that_of_known_models(router: Any, config: Any, normalize: bool) -> None:
    theirs = router(config)
    theirs.weight.data = normal(8, 16)
    logits, weights, experts = theirs(normal(50, 16, seed=1))
    ours = route(logits.detach(), settings_for(8, 2, normalize))
    assert torch.equal(ours.experts, experts)
    torch.testing.assert_close(ours.weights, weights, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("normalize", [True, False])
def test_weights_and_their_gradient_are_those_of_the_formula(normalize: bool) -> None:
    ours = normal(20, 6).requires_grad_()
    exact = ours.detach().double().requires_grad_()
    routing = route(ours, settings_for(6, 3, normalize))
    shares = exact.exp() / exact.exp().sum(dim=1, keepdim=True)
    expected = torch.stack([shares[i, routing.experts[i]] for i in range(20)])
    if normalize:
        expected = expected / expected.sum(dim=1, keepdim=True)
    upstream = normal(20, 3, seed=2)
    routing.weights.backward(upstream)
    expected.backward(upstream.double())
    torch.testing.assert_close(routing.weights.double(), expected, rtol=1e-6, atol=1e-7)
    assert ours.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-5, atol=1e-7)


def test_ties_go_to_the_lower_expert() -> None:
    logits = torch.tensor([[0.0, 1, 0, 1, 1, 0], [2, 2, 2, 2, 2, 2], [0, 0, 3, 0, 0, 0]])
    assert route(logits, settings_for(6, 3)).experts.tolist() == [[1, 3, 4], [0, 1, 2], [2, 0, 1]]
    wide = torch.zeros(3, 300)  # past the lengths that a sort may do otherwise
    assert route(wide, settings_for(300, 4)).experts.tolist() == [[0, 1, 2, 3]] * 3


def test_the_balance_loss_is_the_papers() -> None:
    """Fedus et al. (2021), equations 4 to 6, over the tokens; its gradient is through P alone."""
    logits = normal(40, 4).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    routing = route(logits, settings_for(4, 1))
    counts = [sum(int(e) == i for e in routing.experts) for i in range(4)]
    loss = balance_loss(routing.probabilities, torch.tensor(counts) / 40)
    shares = exact.softmax(dim=1)
    expected = 4 * sum(counts[i] / 40 * shares[:, i].mean() for i in range(4))
    loss.backward()
    (expected * 40).backward()
    assert loss.item() / 40 == pytest.approx(expected.item(), rel=1e-6)
    assert logits.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-5, atol=1e-7)


def test_the_balance_loss_is_one_when_even_and_a_kth_of_mixtrals() -> None:
    even = torch.full((12, 4), 0.25)
    assert float(balance_loss(even, torch.full((4,), 0.25))) == 12
    logits = normal(64, 8)
    routing = route(logits, settings_for(8, 2))
    fractions = assign(routing.experts, 8).counts / 128
    theirs = modeling_mixtral.load_balancing_loss_func((logits,), 8, 2)
    ours = balance_loss(routing.probabilities, fractions) / 64
    assert float(ours) == pytest.approx(float(theirs) / 2, rel=1e-6)


def test_the_z_loss_is_the_papers() -> None:
    logits = (normal(30, 5) * 4).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    z_loss(logits).backward()
    expected = exact.exp().sum(dim=1).log().pow(2).sum()
    expected.backward()
    assert z_loss(logits).item() == pytest.approx(expected.item(), rel=1e-6)
    assert logits.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recompute", [False, True])
def test_an_attached_loss_starts_its_own_backward_pass(recompute: bool) -> None:
    x, y = normal(5).requires_grad_(), normal(5, seed=1).requires_grad_()

    def body(x: Tensor, y: Tensor) -> Tensor:
        return attach(x * 2, (y * y).sum(), 0.25)

    result = checkpoint(body, x, y, use_reentrant=False) if recompute else body(x, y)
    assert isinstance(result, Tensor)
    assert torch.equal(result, x * 2)
    result.backward(torch.full((5,), 3.0))
    assert torch.equal(x.grad, torch.full((5,), 6.0))  # type: ignore[arg-type]
    assert torch.equal(y.grad, 0.5 * y.detach())  # type: ignore[arg-type]


choices = st.integers(1, 6).flatmap(
    lambda e: st.tuples(
        st.just(e),
        st.integers(1, e).flatmap(
            lambda k: st.lists(st.permutations(range(e)).map(lambda p: p[:k]), max_size=12)
        ),
    )
)


@settings(deadline=None)
@given(choices)
def test_rows_are_sorted_by_expert_then_token(case: tuple[int, list[list[int]]]) -> None:
    count, lists = case
    chosen = len(lists[0]) if lists else 1
    experts = torch.tensor(lists, dtype=torch.int64).view(len(lists), chosen)
    assignment = assign(experts, count)
    expected = sorted((e, t, j) for t, row in enumerate(lists) for j, e in enumerate(row))
    assert assignment.order.tolist() == [t * chosen + j for _, t, j in expected]
    assert assignment.counts.tolist() == [sum(e == i for e, _, _ in expected) for i in range(count)]
    for row, (_, token, rank) in enumerate(expected):
        assert int(assignment.place[token, rank]) == row


def test_rows_go_and_come_back_to_their_tokens() -> None:
    experts = route(normal(30, 5), settings_for(5, 3)).experts
    assignment = assign(experts, 5)
    x = normal(30, 4, seed=1)
    rows = dispatch(x, assignment.order, 3)
    for row, choice in zip(rows, assignment.order.tolist(), strict=True):
        assert torch.equal(row, x[choice // 3])
    assert torch.equal(combine(rows, assignment.place), x + x + x)


def test_a_token_adds_its_rows_in_the_order_of_its_choices() -> None:
    """Bit for bit, whatever the numbers of the experts."""
    weights, rows = normal(40, 4).abs(), normal(160, 8, seed=1) * 1e3
    place = torch.randperm(160, generator=torch.Generator().manual_seed(2)).view(40, 4)
    total = combine(rows, place, weights)
    for token in range(40):
        expected = torch.zeros(8)
        for rank in range(4):
            expected = expected + rows[place[token, rank]] * weights[token, rank]
        assert torch.equal(total[token], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_combine_is_the_gradient_of_dispatch(dtype: torch.dtype) -> None:
    place = torch.randperm(60, generator=torch.Generator().manual_seed(2)).view(20, 3)
    order = place.flatten().argsort()
    exact = normal(20, 4).double().requires_grad_()
    upstream = normal(60, 4, seed=1).to(dtype)
    exact.repeat_interleave(3, dim=0)[order].backward(upstream.double())
    ours = combine(upstream, place)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact.grad, rtol=1e-6, atol=1e-6)
