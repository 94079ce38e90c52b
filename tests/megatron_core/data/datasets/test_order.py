"""The data order: permutations that need no list, and mixtures of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.data.datasets.order import Mixture, permute

# What the recipe's seed has meant so far; a change here reorders everyone's data.
KNOWN = [5, 0, 9, 6, 7, 1, 2, 4, 8, 3]
KNOWN_LARGE = [958201678549, 78418363158, 654545208805]


def test_every_index_goes_somewhere_else() -> None:
    for size in range(1, 301):
        assert {permute(i, size, "key") for i in range(size)} == set(range(size))


@given(st.integers(1, 10**15).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_it_stays_inside_any_size(case: tuple[int, int]) -> None:
    size, index = case
    assert 0 <= permute(index, size, "1:epoch:0") < size


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0)])
def test_outside_is_refused(index: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"index {index} is outside range\\({size}\\)"):
        permute(index, size, "key")


def test_known_values_stay() -> None:
    assert [permute(i, 10, "1:epoch:0") for i in range(10)] == KNOWN
    assert [permute(i, 10**12, "1:epoch:0") for i in range(3)] == KNOWN_LARGE


def test_keys_give_orders_that_look_unrelated() -> None:
    size = 997
    orders = [[permute(i, size, f"{seed}:epoch:0") for i in range(size)] for seed in range(3)]
    for a in range(3):
        fixed = sum(i == x for i, x in enumerate(orders[a]))
        adjacent = sum(abs(x - y) == 1 for x, y in zip(orders[a], orders[a][1:], strict=False))
        agreeing = sum(x == y for x, y in zip(orders[a], orders[a - 1], strict=True))
        assert max(fixed, adjacent, agreeing) < 10  # 1, 2 and 1 are expected


def taken(mixture: Mixture, epochs: range) -> Counter[tuple[str, int]]:
    size = mixture.epoch_size
    return Counter(mixture.item(k) for k in range(epochs.start * size, epochs.stop * size))


ITEMS = {"a": 7, "b": 12, "c": 5}


@pytest.mark.parametrize(
    ("weights", "epochs", "times"),
    [
        ({"a": 1.0, "b": 1.0, "c": 1.0}, 1, {"a": 1, "b": 1, "c": 1}),
        ({"a": 1.0, "b": 1.0}, 3, {"a": 3, "b": 3}),
        ({"a": 2.0, "c": 1.0}, 1, {"a": 2, "c": 1}),
        ({"b": 0.5, "a": 1.0}, 2, {"a": 2, "b": 1}),
        ({"b": 0.25, "c": 3.0}, 4, {"b": 1, "c": 12}),
        ({"b": 1.5}, 2, {"b": 3}),
    ],
)
def test_each_item_comes_as_often_as_its_weight_says(
    weights: Mapping[str, float], epochs: int, times: Mapping[str, int]
) -> None:
    counts = taken(Mixture(ITEMS, weights, seed=3), range(epochs))
    assert counts == {(name, i): n for name, n in times.items() for i in range(ITEMS[name])}


def test_an_epoch_at_half_weight_takes_half_the_items_once() -> None:
    mixture = Mixture(ITEMS, {"b": 0.5}, seed=0)
    first, second = taken(mixture, range(1)), taken(mixture, range(1, 2))
    assert set(first.values()) == set(second.values()) == {1}
    assert len(first) == len(second) == 6
    assert not first.keys() & second.keys()


def test_the_half_that_an_epoch_takes_is_the_seeds_and_the_passs() -> None:
    halves = [
        frozenset(taken(Mixture({"a": 50}, {"a": 0.5}, seed), range(epoch, epoch + 1)))
        for seed in (0, 1)
        for epoch in (0, 2)  # each begins a pass
    ]
    assert len(set(halves)) == 4


@given(
    st.dictionaries(st.sampled_from("abc"), st.floats(0.05, 3), min_size=1), st.integers(0, 1000)
)
def test_no_item_is_ever_two_passes_ahead_of_another(
    weights: dict[str, float], seed: int
) -> None:  # fmt: skip
    mixture = Mixture(ITEMS, weights, seed)
    counts = taken(mixture, range(3))
    for name in weights:
        seen = [counts[name, i] for i in range(ITEMS[name])]
        assert max(seen) - min(seen) <= 1
        assert sum(seen) == 3 * max(1, round(weights[name] * ITEMS[name]))


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    def order(seed: int, epoch: int) -> list[tuple[str, int]]:
        mixture = Mixture({"a": 50}, {"a": 1.0}, seed)
        return [mixture.item(epoch * 50 + k) for k in range(50)]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_the_order_in_which_a_recipe_names_its_sources_is_none() -> None:
    forward = Mixture(ITEMS, {"a": 1.0, "b": 0.5, "c": 2.0}, seed=1)
    backward = Mixture(ITEMS, {"c": 2.0, "b": 0.5, "a": 1.0}, seed=1)
    assert [forward.item(k) for k in range(40)] == [backward.item(k) for k in range(40)]
