"""Draws, against probabilities and against the samplers of transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TopKLogitsWarper, TopPLogitsWarper

from megatron_core.config import SamplingConfig
from megatron_core.inference.sampling import Draws, choose, pick


@pytest.mark.parametrize(("draw", "token"), [(0.0, 1), (0.499, 1), (0.5, 3), (1 - 2**-53, 3)])
def test_a_token_of_probability_zero_is_never_drawn(draw: float, token: int) -> None:
    impossible = -float("inf")
    logits = torch.tensor([impossible, 0.0, impossible, 0.0, impossible], dtype=torch.float64)
    assert pick(logits, draw) == token


def test_a_draw_falls_where_the_distribution_says() -> None:
    logits = torch.randn(300, generator=torch.Generator().manual_seed(1))
    cumulative = np.cumsum(np.exp(logits.double().numpy() / 2))
    cumulative /= cumulative[-1]
    config, drawn = SamplingConfig(temperature=2.0), set()
    for draw in np.random.RandomState(0).rand(60):
        token = choose(logits, config, float(draw))
        # The smallest token whose cumulative probability exceeds the draw.
        assert token == int((cumulative <= draw).sum())
        drawn.add(token)
    assert len(drawn) > 30
    assert choose(logits, SamplingConfig(temperature=0), 0.9) == int(logits.argmax())


def test_draws_are_uniform_and_do_not_repeat() -> None:
    draws = np.array([Draws(s, [p])[t] for s in range(10) for p in range(10) for t in range(50)])
    assert len(set(draws)) == 5000
    assert draws.min() >= 0 and draws.max() < 1
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    assert abs(counts - 250).max() < 5 * np.sqrt(250)
    assert Draws(1, [12])[0] != Draws(1, [1, 2])[0]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6), temperature=st.sampled_from([0.3, 1.0, 2.5]),
    k=st.none() | st.integers(1, 60), p=st.none() | st.floats(0.05, 1.0),
)  # fmt: skip
def test_what_can_be_drawn_is_what_transformers_would_draw(
    seed: int, temperature: float, k: int | None, p: float | None
) -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    theirs = (logits / temperature)[None]
    if k is not None:
        theirs = TopKLogitsWarper(k)(None, theirs)
    if p is not None:
        theirs = TopPLogitsWarper(p)(None, theirs)
    config = SamplingConfig(temperature=temperature, top_k=k, top_p=p)
    for draw in np.linspace(0, 1, 40, endpoint=False):
        assert choose(logits, config, float(draw)) == pick(theirs[0], float(draw))


def test_of_equal_tokens_the_lower_is_kept() -> None:
    logits = torch.zeros(10)
    config = SamplingConfig(temperature=1.0, top_k=3)
    assert {choose(logits, config, draw / 10) for draw in range(10)} == {0, 1, 2}
