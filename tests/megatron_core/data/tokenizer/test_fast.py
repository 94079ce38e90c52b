"""gigatoken against the reference encoders, and who is chosen."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.data.tokenizer import Tokenizer, choose_encoder, fast, open_encoder
from megatron_core.errors import CorpusError, MissingExtraError
from tests.tokenizers import HARD, KINDS, corpus, fuzz, made

FASTER = ["byte_bpe", "sentencepiece_bpe"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each kind."""
    root = tmp_path_factory.mktemp("kinds")
    return {kind: made(root / kind, config) for kind, config in KINDS.items()}


def assert_same(tokenizer: Tokenizer, texts: list[str]) -> None:
    ids, lengths = open_encoder(tokenizer, "gigatoken").encode(texts)
    expected, counts = tokenizer.reference.encode(texts)
    assert ids.dtype == expected.dtype == np.uint32
    assert lengths.dtype == counts.dtype == np.int64
    np.testing.assert_array_equal(lengths, counts)
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize("parse", [False, True])
@pytest.mark.parametrize("kind", FASTER)
def test_every_id_is_the_reference_s(folders: dict[str, Path], kind: str, parse: bool) -> None:
    pytest.importorskip("gigatoken")
    tokenizer = Tokenizer.load(folders[kind], parse_special_tokens=parse)
    size = 1_000_000 if kind == "byte_bpe" and not parse else 50_000
    word = "".join(random.Random(3).choices("abcdefgh", k=size))
    assert_same(tokenizer, [*HARD, *fuzz(1500), *(document.text for document in corpus())])
    assert_same(tokenizer, [word])
    assert_same(tokenizer, [])


@given(texts=st.lists(st.text(), max_size=5))
@pytest.mark.parametrize("kind", FASTER)
def test_any_text_is_the_reference_s(folders: dict[str, Path], kind: str, texts: list[str]) -> None:
    pytest.importorskip("gigatoken")
    assert_same(Tokenizer.load(folders[kind]), texts)


@pytest.mark.parametrize(
    ("kind", "wanted", "name", "why"),
    [
        ("byte_bpe", "auto", "gigatoken", "faster than tokenizers"),
        ("byte_bpe", "gigatoken", "gigatoken", "exact"),
        ("byte_bpe", "reference", "tokenizers", "asks for the reference"),
        ("sentencepiece_bpe", "auto", "gigatoken", "faster than sentencepiece"),
        ("sentencepiece_unigram", "auto", "sentencepiece", "does not know .*Unigram"),
        ("wordpiece", "auto", "tokenizers", "does not know .*WordPiece"),
    ],
)
def test_the_fastest_exact_one_is_chosen(
    folders: dict[str, Path], kind: str, wanted: str, name: str, why: str
) -> None:
    pytest.importorskip("gigatoken")
    tokenizer = Tokenizer.load(folders[kind])
    chosen, reason = choose_encoder(tokenizer, wanted)
    assert chosen == name
    assert re.search(why, reason)
    assert open_encoder(tokenizer, chosen).name == name


def test_what_is_wanted_and_cannot_be_is_refused(folders: dict[str, Path]) -> None:
    pytest.importorskip("gigatoken")
    with pytest.raises(CorpusError, match=r"does not know .* set tokenize\.encoder to reference"):
        choose_encoder(Tokenizer.load(folders["wordpiece"]), "gigatoken")


def test_says_what_to_install(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "find_spec", lambda name: None)
    tokenizer = Tokenizer.load(folders["byte_bpe"])
    assert choose_encoder(tokenizer, "auto") == (
        "tokenizers", "gigatoken is not installed (pip install 'reforge-llm[fast]')"
    )  # fmt: skip
    with pytest.raises(MissingExtraError, match=r"reforge-llm\[fast\]"):
        choose_encoder(tokenizer, "gigatoken")


def test_one_that_errs_is_not_chosen(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gigatoken")
    right = fast.GigatokenEncoder.encode

    def wrong(self: fast.GigatokenEncoder, texts: list[str]) -> object:
        ids, lengths = right(self, texts)
        ids = ids.copy()
        ids[-1] += 1
        return ids, lengths

    monkeypatch.setattr(fast.GigatokenEncoder, "encode", wrong)
    tokenizer = Tokenizer.load(folders["byte_bpe"])
    assert choose_encoder(tokenizer, "auto") == (
        "tokenizers", "gigatoken is not exact for this tokenizer"
    )  # fmt: skip
    with pytest.raises(CorpusError, match="gigatoken is not exact"):
        choose_encoder(tokenizer, "gigatoken")


def test_the_cache_is_thrown_away(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gigatoken")
    starts = []
    start = fast.GigatokenEncoder._start
    monkeypatch.setattr(
        fast.GigatokenEncoder, "_start", lambda self: (starts.append(1), start(self))[1]
    )
    monkeypatch.setattr(fast, "_CACHE", 8_000_000)
    tokenizer = Tokenizer.load(folders["byte_bpe"])
    encoder = open_encoder(tokenizer, "gigatoken")
    draw = np.random.default_rng(1)
    for _ in range(6):
        letters = draw.integers(97, 123, 400_000, dtype=np.uint8)
        letters[::9] = 32
        text = letters.tobytes().decode()
        ids, _ = encoder.encode([text])
        assert ids.tolist() == tokenizer.encode(text)
    assert len(starts) > 1
