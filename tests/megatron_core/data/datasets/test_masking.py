"""Masked inputs: the right shares, and each sample's choice its own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.config import MaskingConfig
from megatron_core.data.datasets.masking import mask_tokens

VOCABULARY = 500
MASK = 3  # never among the tokens below, nor is anything under 100


def text(rows: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(100, VOCABULARY, (rows, length), generator=generator)


def masked(
    tokens: Tensor, samples: range | list[int], seed: int = 1, **changes: float
) -> tuple[Tensor, Tensor]:
    config = MaskingConfig.model_validate(changes)
    return mask_tokens(tokens, samples, config=config, mask=MASK, vocabulary=VOCABULARY, seed=seed)


def test_targets_are_the_tokens_and_the_rest_is_left_alone() -> None:
    tokens = text(40, 64)
    before = tokens.clone()
    inputs, targets = masked(tokens, range(40))
    chosen = targets != IGNORED
    assert torch.equal(tokens, before)
    assert torch.equal(targets[chosen], tokens[chosen])
    assert torch.equal(inputs[~chosen], tokens[~chosen])
    assert inputs.dtype == targets.dtype == torch.int64


@pytest.mark.parametrize(
    ("length", "rate", "expected"), [(64, 0.15, 10), (200, 0.15, 30), (1, 0.15, 1), (3, 0.01, 1)]
)
def test_every_sample_predicts_its_share_and_at_least_one(
    length: int, rate: float, expected: int
) -> None:
    _, targets = masked(text(20, length), range(20), rate=rate)
    assert (targets != IGNORED).sum(dim=1).tolist() == [expected] * 20


def test_what_is_predicted_is_masked_drawn_or_kept_in_the_given_shares() -> None:
    tokens = text(1000, 100)
    inputs, targets = masked(tokens, range(1000), rate=0.2, masked=0.7, random=0.2)
    chosen = targets != IGNORED
    count = int(chosen.sum())
    given, truth = inputs[chosen], targets[chosen]
    # A token under 100 was drawn; so were four times as many that cannot be told from text.
    low = int(((given < 100) & (given != MASK)).sum())
    for seen, share in (
        (int((given == MASK).sum()), 0.7 + 0.2 / VOCABULARY),
        (low, 0.2 * 99 / VOCABULARY),
        (int((given == truth).sum()), 0.1 + 0.2 / VOCABULARY),
    ):
        assert abs(seen - share * count) < 4 * math.sqrt(count * share * (1 - share))


def test_every_position_is_chosen_equally_often_and_independently() -> None:
    chosen = (masked(text(4000, 20), range(4000), rate=0.25)[1] != IGNORED).double()
    spread = math.sqrt(0.25 * 0.75 / 4000)
    assert float((chosen.mean(dim=0) - 0.25).abs().max()) < 4.5 * spread
    together = chosen.T @ chosen / 4000  # 5 of 20, without replacement: 5·4 / 20·19
    pairs = together[~torch.eye(20, dtype=torch.bool)]
    expected = 20 / 380
    assert float((pairs - expected).abs().max()) < 5 * math.sqrt(expected / 4000)


def test_drawn_tokens_cover_the_vocabulary() -> None:
    inputs, targets = masked(text(1000, 50), range(1000), rate=0.5, masked=0.0, random=1.0)
    drawn = torch.bincount(inputs[targets != IGNORED], minlength=VOCABULARY).double()
    assert len(drawn) == VOCABULARY
    expected = 1000 * 25 / VOCABULARY
    assert float((drawn - expected).square().sum() / expected) < 1.3 * VOCABULARY  # chi squared


def test_a_samples_choice_is_its_own() -> None:
    """Whatever the batch it comes in, its neighbours, its text, or what was drawn before."""
    tokens = text(6, 50)
    inputs, targets = masked(tokens, [5, 900, 2**40, 7, 8, 9])
    torch.rand(3)
    for row, sample in enumerate([5, 900, 2**40, 7, 8, 9]):
        alone = masked(tokens[row : row + 1], [sample])
        assert torch.equal(alone[0][0], inputs[row])
        assert torch.equal(alone[1][0], targets[row])
    places = masked(tokens.flip(0), [5, 900, 2**40, 7, 8, 9])[1] != IGNORED
    assert torch.equal(places, targets != IGNORED)


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    masked(text(2, 8), range(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_and_seeds_have_choices_of_their_own() -> None:
    tokens = text(1, 100).expand(20, -1)
    choices = [masked(tokens, range(20), seed)[1] != IGNORED for seed in (1, 2)]
    rows = torch.cat(choices)
    assert len({tuple(row.tolist()) for row in rows}) == 40
    overlap = (rows[:20] & rows[20:]).sum(dim=1).double().mean()  # 15 · 15 / 100 expected
    assert 1 < float(overlap) < 3.5


def test_known_choices_stay() -> None:
    """What seed and sample number have meant so far; a change changes every encoder's training."""
    inputs, targets = masked(torch.arange(100, 120)[None], [7], seed=1, rate=0.2)
    assert (targets[0] != IGNORED).nonzero().flatten().tolist() == [2, 7, 15, 17]
    assert (inputs[0] == MASK).nonzero().flatten().tolist() == [7, 15, 17]


def words_of(begins: Tensor, eligible: Tensor) -> list[list[int]]:
    """Places of each word, one place at a time."""
    words: list[list[int]] = []
    for place in range(len(begins)):
        if eligible[place]:
            follows = words and words[-1][-1] == place - 1
            if begins[place] or not follows:
                words.append([])
            words[-1].append(place)
    return words


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.7])
def test_words_are_predicted_whole_or_not_at_all(rate: float) -> None:
    generator = torch.Generator().manual_seed(1)
    tokens = text(200, 40)
    begins, eligible = (torch.rand(200, 40, generator=generator) < p for p in (0.5, 0.9))
    config = MaskingConfig(rate=rate)
    _, targets = mask_tokens(
        tokens, range(200), config=config, mask=MASK, vocabulary=VOCABULARY, seed=1,
        eligible=eligible, begins_word=begins,
    )  # fmt: skip
    chosen = targets != IGNORED
    assert not (chosen & ~eligible).any()
    short = 0
    for row in range(200):
        words = words_of(begins[row], eligible[row])
        for word in words:
            assert chosen[row, word].all() or not chosen[row, word].any()
        wanted = max(1, round(rate * int(eligible[row].sum())))
        count = int(chosen[row].sum())
        left = [len(word) for word in words if not chosen[row, word[0]]]
        # No more than asked for, save one word that is longer; no less, if another word fits.
        assert count <= wanted or sum(chosen[row, w[0]] for w in words) == 1  # type: ignore[misc]
        assert count >= wanted or min(left, default=99) > wanted - count
        short += count < wanted
    assert short < 40


def test_words_of_one_token_are_chosen_as_tokens_are() -> None:
    tokens = text(30, 40)
    whole = torch.ones(30, 40, dtype=torch.bool)
    config = MaskingConfig()
    plainly, by_word, eligible = (
        mask_tokens(
            tokens, range(30), config=config, mask=MASK, vocabulary=VOCABULARY, seed=1, **options
        )
        for options in ({}, {"begins_word": whole}, {"eligible": whole})
    )
    for ours in (by_word, eligible):
        assert torch.equal(plainly[0], ours[0])
        assert torch.equal(plainly[1], ours[1])


def test_a_sequence_of_padding_predicts_nothing() -> None:
    tokens = text(2, 8)
    eligible = torch.zeros(2, 8, dtype=torch.bool)
    eligible[1, 3] = True
    inputs, targets = mask_tokens(
        tokens, [0, 1], config=MaskingConfig(masked=1.0, random=0.0), mask=MASK,
        vocabulary=VOCABULARY, seed=1, eligible=eligible,
    )  # fmt: skip
    assert (targets != IGNORED).nonzero().tolist() == [[1, 3]]
    assert torch.equal(inputs[0], tokens[0])
    assert int(inputs[1, 3]) == MASK
