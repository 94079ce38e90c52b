"""Exposure against ranks counted over every secret there is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.config import CanariesConfig
from megatron_core.data.canaries import Canaries
from megatron_core.evaluation.exposure import chance, exposure, measure_exposure

CONFIG = CanariesConfig(source="notes", format="Room ### of ward #", copies=[2, 9], count=3)


def secret(text: str) -> int:
    return int("".join(letter for letter in text if letter.isdigit()))


@pytest.mark.parametrize("seed", [1, 2])
def test_all_of_a_space_against_a_count_of_every_secret(seed: int) -> None:
    canaries = Canaries(CONFIG.model_copy(update={"seed": seed}))

    def bits(texts: Sequence[str]) -> list[float]:
        # Some order of all secrets, with ties of ten.
        return [float(secret(text) * 7919 % 10_007 // 10) for text in texts]

    found = measure_exposure(canaries, bits, 1_000_000)
    asked = [*canaries.controls(), *canaries.planted()]
    taken = {one.text for one in asked}
    space = [f"Room {n // 10:03d} of ward {n % 10}" for n in range(10_000)]
    assert found["alternatives"] == 10_000 - len(asked)
    for one in found["each"]:
        (own,) = bits([one["text"]])
        rank = 1 + sum(
            value <= own
            for text, value in zip(space, bits(space), strict=True)
            if text not in taken
        )
        assert one["rank"] == rank
        assert one["exposure"] == pytest.approx(
            math.log2(found["alternatives"] + 1) - math.log2(rank)
        )
    assert [group["copies"] for group in found["groups"]] == [0, 2, 9]
    for group in found["groups"]:
        values = [one["exposure"] for one in found["each"] if one["copies"] == group["copies"]]
        assert len(values) == group["canaries"] == 3
        assert group["exposure"] == pytest.approx(fmean(values))
        assert (group["least"], group["most"]) == (min(values), max(values))


def test_what_a_model_knows_best_and_what_it_never_saw() -> None:
    canaries = Canaries(CONFIG.model_copy(update={"count": 200}))
    known = {one.text for one in canaries.planted() if one.copies == 9}

    def bits(texts: Sequence[str]) -> list[float]:
        return [0.0 if text in known else 1.0 + secret(text) * 7919 % 10_007 for text in texts]

    found = measure_exposure(canaries, bits, 1023)
    never, little, often = found["groups"]
    assert often["exposure"] == found["most"] == 10
    assert often["first"] == 200
    for group in (never, little):
        assert group["exposure"] == pytest.approx(found["chance"], abs=0.3)


def test_a_model_that_knows_nothing_has_no_exposure() -> None:
    found = measure_exposure(Canaries(CONFIG), lambda texts: [1.0] * len(texts), 100)
    assert {one["exposure"] for one in found["each"]} == {0.0}


@given(st.integers(0, 3000))
def test_chance_is_the_mean_over_all_ranks(alternatives: int) -> None:
    ranks = range(1, alternatives + 2)
    assert chance(alternatives) == pytest.approx(
        fmean(exposure(rank, alternatives) for rank in ranks), abs=1e-9
    )
