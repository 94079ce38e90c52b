"""An encoder that errs is found out, whichever document it errs in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megatron_core.data.tokenization.check import CheckedEncoder
from megatron_core.data.tokenization.lines import Batch
from megatron_core.data.tokenizer.encoders import flat
from megatron_core.errors import CorpusError


class Letters:
    """The id of a letter is its code; ``wrong`` texts get other ids."""

    def __init__(self, name: str, *wrong: str) -> None:
        self.name, self.wrong, self.seen = name, wrong, list[str]()

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        self.seen += texts
        return flat([[ord(c) + (text in self.wrong) for c in text] for text in texts])


def batch(start: int, stop: int) -> Batch:
    rows = np.arange(start, stop)
    return Batch(rows, ["notes"] * len(rows), [f"text {row}" for row in rows])


def encode(fast: Letters, slow: Letters, every: int, batches: list[Batch]) -> None:
    checked = CheckedEncoder(fast, slow, Path("shard.jsonl"), every)
    for one in batches:
        ids, lengths = checked.encode(one)
        assert (ids.tolist(), lengths.tolist()) == tuple(
            found.tolist() for found in Letters("again").encode(one.texts)
        )


def test_a_sample_goes_through_both() -> None:
    slow = Letters("slow")
    encode(Letters("fast"), slow, 10, [batch(0, 500), batch(500, 1000)])
    assert slow.seen[:4] == [f"text {row}" for row in range(4)]
    assert 70 < len(slow.seen) < 140
    again = Letters("slow")
    encode(Letters("fast"), again, 10, [batch(0, 1000)])
    assert again.seen == slow.seen  # However the shard is cut into batches.


@pytest.mark.parametrize("row", [0, 3, 990])
def test_a_difference_stops_the_stage(row: int) -> None:
    fast = Letters("fast", f"text {row}")
    problem = f"fast encodes notes/{row} of shard.jsonl to other tokens than slow"
    with pytest.raises(CorpusError, match=problem):
        encode(fast, Letters("slow"), 1, [batch(0, 500), batch(500, 1000)])


def test_a_missing_token_is_a_difference() -> None:
    class Short(Letters):
        def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
            return flat([[ord(c) for c in text][:-1] for text in texts])

    with pytest.raises(CorpusError, match="other tokens"):
        encode(Short("fast"), Letters("slow"), 1, [batch(0, 3)])


def test_long_documents_and_the_reference_itself_are_not_checked() -> None:
    slow = Letters("slow")
    long = Batch(np.array([0, 1]), ["s", "s"], ["x" * (1 << 20), "y" * ((1 << 20) + 1)])
    encode(Letters("fast"), slow, 1, [long])
    assert [text[0] for text in slow.seen] == ["x"]
    one = Letters("one")
    encode(one, one, 1, [batch(0, 5)])
    assert len(one.seen) == 5
