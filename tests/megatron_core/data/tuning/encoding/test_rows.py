"""Rows of one and two texts, against the tokenizer of transformers and against a slow loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.data.datasets.spans import NO_DOCUMENT
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.tuning.encoding.rows import Framing, longest_first
from megatron_core.data.tuning.encoding.texts import encode_texts
from megatron_core.data.tuning.texts import LabelledText
from megatron_core.errors import ConfigError, CorpusError
from tests.tokenizers import corpus

WORDS = [document.text for document in corpus(12)]
PAIRS = [
    LabelledText(str(n), a[: 20 * n], b[: 200 - 30 * n], label="ab"[n % 2], score=n / 2)
    for n, (a, b) in enumerate(zip(WORDS[1:6], WORDS[6:11], strict=True), start=1)
]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(0, 30))
def test_the_longest_loses_a_token_at_a_time(sizes: list[int], room: int) -> None:
    slow = list(sizes)
    while sum(slow) > room:
        slow[max(n for n, size in enumerate(slow) if size == max(slow))] -= 1
    assert longest_first(sizes, room) == slow


@pytest.mark.parametrize("length", [17, 65, 300])
@pytest.mark.parametrize("paired", [True, False])
def test_an_encoder_sees_what_transformers_gives_it(
    folders: dict[str, Path], length: int, paired: bool
) -> None:
    from transformers import AutoTokenizer

    texts = PAIRS if paired else [LabelledText(p.id, p.text, score=p.score) for p in PAIRS]
    folder = folders["wordpiece"]
    found = encode_texts(texts, Tokenizer.load(folder), length=length, framed=True)
    theirs = AutoTokenizer.from_pretrained(folder)(
        [one.text for one in texts], [one.second for one in PAIRS] if paired else None,
        padding="max_length", max_length=length, return_tensors="pt", return_token_type_ids=True,
        truncation=False if length == 300 else "longest_first",
    )  # fmt: skip
    mask = theirs["attention_mask"].bool()
    assert torch.equal(found.rows.tokens[mask], theirs["input_ids"][mask])
    assert found.rows.types is not None
    assert torch.equal(found.rows.types, theirs["token_type_ids"])
    assert torch.equal(found.rows.documents != NO_DOCUMENT, mask)
    tokenizer = Tokenizer.load(folder)
    sizes = [sum(len(tokenizer.encode(t)) + 1 for t in (p.text, p.second) if t) for p in texts]
    assert found.cut == sum(size + 1 > length for size in sizes)
    assert found.targets.tolist() == [one.score for one in texts]


def test_a_decoder_sees_each_text_and_its_end(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(folders["byte_bpe"])
    found = encode_texts(PAIRS, tokenizer, length=300, framed=False, classes=("a", "b"))
    for row, one in zip(found.rows.tokens, PAIRS, strict=True):
        end = [tokenizer.end_of_document]
        expected = tokenizer.encode(one.text) + end + tokenizer.encode(one.second or "") + end
        assert row[: len(expected)].tolist() == expected
    assert found.rows.types is None
    assert found.targets.tolist() == [1, 0, 1, 0, 1]
    assert found.ids == ("1", "2", "3", "4", "5")


def test_what_cannot_be_encoded(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(folders["byte_bpe"])
    with pytest.raises(CorpusError, match="the data has the label 'b'; allowed are a, c"):
        encode_texts(PAIRS, tokenizer, length=300, framed=False, classes=("a", "c"))
    with pytest.raises(CorpusError, match="no cls_token or no sep_token"):
        encode_texts(PAIRS, tokenizer, length=300, framed=True)
    with pytest.raises(CorpusError, match="some texts are pairs and some are not"):
        encode_texts([*PAIRS, LabelledText("x", "y")], tokenizer, length=300, framed=False)
    with pytest.raises(CorpusError, match="1 texts have no score"):
        encode_texts([LabelledText("x", "y")], tokenizer, length=300, framed=False)
    with pytest.raises(ConfigError, match="a length of 3 leaves 1 tokens for 2 texts"):
        Framing(tokenizer, 3, framed=False, texts=2)
