"""Splits keep groups whole, and stay as the data grow."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.data.tuning.splits import check_apart, read_ids, split_by_group, split_by_value
from megatron_core.errors import ConfigError, CorpusError

SHARES = {"train": 0.8, "devel": 0.1, "test": 0.1}


def test_shares_are_met_in_the_mean() -> None:
    groups = [f"patient {n}" for n in range(20_000)]
    found = split_by_group(groups, SHARES, seed=1)
    for name, share in SHARES.items():
        assert found.count(name) / len(groups) == pytest.approx(share, abs=0.01)
    assert split_by_group(groups, SHARES, seed=2) != found


@given(st.lists(st.sampled_from([f"p{n}" for n in range(60)]), min_size=1), st.integers(0, 9))
def test_a_group_is_in_one_part_whatever_else_there_is(some: list[str], seed: int) -> None:
    every = [f"p{n}" for n in range(300)]
    where = dict(zip(every, split_by_group(every, SHARES, seed), strict=True))
    found = split_by_group([*some, *every], SHARES, seed)
    assert found[: len(some)] == [where[group] for group in some]


def test_what_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match="add to 1"):
        split_by_group(["a"], {"train": 0.8, "test": 0.3}, 0)
    with pytest.raises(CorpusError, match=r"no group falls into '\w+', a share of 0.5 of 1 groups"):
        split_by_group(["c"] * 9, {"test": 0.5, "train": 0.5}, 0)


def test_values_held_out(tmp_path: Path) -> None:
    assert split_by_value(["a", None, "b", "a"], {"a"}) == [True, False, False, True]
    with pytest.raises(CorpusError, match="1 of 2 values to hold out do not occur, such as 'z'"):
        split_by_value(["a", "b"], ["z", "a"])
    with pytest.raises(CorpusError, match="every example would be held out"):
        split_by_value(["a"], ["a"])
    (tmp_path / "ids.json").write_text('{"12": "yes", "7": "no"}')
    (tmp_path / "ids.txt").write_text("12\n\n7\n")
    assert read_ids(tmp_path / "ids.json") == read_ids(tmp_path / "ids.txt") == ("12", "7")
    (tmp_path / "ids.json").write_text("[]")
    with pytest.raises(CorpusError, match="lists no ids"):
        read_ids(tmp_path / "ids.json")


def test_groups_in_two_files_are_found() -> None:
    check_apart({"train": ["a", "a", None], "test": ["b", None]})
    with pytest.raises(CorpusError, match="'b' is in 'train' and in 'test'"):
        check_apart({"train": ["a", "b"], "test": ["b"]})
