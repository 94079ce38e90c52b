"""The text of a growing continuation, against the text of all its tokens."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_core.data.tokenizer import Tokenizer
from megatron_core.inference.prompts import Stream
from megatron_core.inference.text import GrowingText
from tests.models import small_tokenizer

TEXTS = st.text(st.sampled_from("abcé 漢\n🙂"), max_size=30)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(small_tokenizer(tmp_path_factory.mktemp("text") / "tokenizer"))


def grow(tokenizer: Tokenizer, tokens: list[int], stop: list[str]) -> tuple[list[str], GrowingText]:
    text, pieces = GrowingText(tokenizer, stop), []
    for token in tokens:
        pieces.append(text.add(token))
        if text.stopped:
            break
    pieces.append(text.end())
    return pieces, text


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.differing_executors])
@given(whole=TEXTS, stop=st.lists(st.text(st.sampled_from("abé 漢"), min_size=1, max_size=3)))
def test_it_is_the_text_up_to_the_first_stop(
    tokenizer: Tokenizer, whole: str, stop: list[str]
) -> None:
    pieces, text = grow(tokenizer, tokenizer.encode(whole), stop)
    ends = [(whole.find(one) + len(one), whole.find(one)) for one in stop if one in whole]
    assert "".join(pieces) == text.text == whole[: min(ends, default=(0, len(whole)))[1]]
    assert text.stopped == bool(ends)
    assert not any("\ufffd" in piece for piece in pieces)


@settings(deadline=None, max_examples=100)
@given(tokens=st.lists(st.integers(1, 299), max_size=30))
def test_any_tokens_become_their_text(tokenizer: Tokenizer, tokens: list[int]) -> None:
    """Also bytes that are no characters."""
    pieces, _ = grow(tokenizer, tokens, [])
    assert "".join(pieces) == tokenizer.decode(tokens)


def test_pieces_come_as_soon_as_they_are_certain(tokenizer: Tokenizer) -> None:
    tokens = [token for letter in "ab🙂c" for token in tokenizer.encode(letter)]
    pieces, _ = grow(tokenizer, tokens, [])
    assert [piece for piece in pieces if piece] == ["a", "b", "🙂", "c"]
    pieces, _ = grow(tokenizer, [tokenizer.encode(letter)[0] for letter in "abbac"], ["bc", "ac"])
    assert pieces == ["", "a", "b", "b", "", ""]


def test_a_stream_writes_one_text_after_the_other() -> None:
    written: list[str] = []
    stream = Stream(["A", "B", "C"], written.append)
    for number, piece in [(1, "b"), (0, "a"), (1, None), (0, "a"), (2, "c"), (0, None), (2, None)]:
        stream(number, piece)
    assert "".join(written) == "Aaa\n\nBb\n\nCc\n"
