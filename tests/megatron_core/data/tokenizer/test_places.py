"""Which characters a piece stands for, against the bytes that it spells."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.tokenizer.sentence_piece import write_converted
from tests.tokenizers import HARD, KINDS, corpus, fuzz, made

TEXTS = [*HARD, *fuzz(100), "a Ünï x\n\nfoo 🧬 é cab", *(one.text for one in corpus(10))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: made(tmp_path_factory.mktemp(kind), KINDS[kind]) for kind in KINDS}


def spelled(tokenizer: Tokenizer, kind: str, number: int) -> bytes:
    """The bytes of a piece, from its name."""
    name = tokenizer._backend.id_to_token(number)
    if kind == "byte_bpe":
        return bytes(_letters()[letter] for letter in name)
    if len(name) == 6 and name.startswith("<0x"):
        return bytes([int(name[3:5], 16)])
    return name.replace("\u2581", " ").encode()  # type: ignore[no-any-return]


@cache
def _letters() -> dict[str, int]:
    """The letter that byte-level encoding writes for each byte (Radford et al., 2019)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    found = {chr(byte): byte for byte in plain} | {
        chr(256 + n): byte for n, byte in enumerate(others)
    }
    assert set(found) == set(ByteLevel.alphabet())
    return found


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece_bpe", "sentencepiece_unigram"])
def test_places_are_those_of_the_bytes(folders: dict[str, Path], kind: str, control: bool) -> None:
    """One after the other, the pieces spell the text; so a piece's bytes are at a known place."""
    tokenizer = Tokenizer.load(folders[kind], parse_special_tokens=control)
    texts = [text for text in TEXTS if not (control and "<" in text)]
    encoded = tokenizer.encode_with_places(texts)
    assert [one.ids for one in encoded] == tokenizer.encode_batch(texts)
    for text, (ids, places) in zip(texts, encoded, strict=True):
        owner = [n for n, letter in enumerate(text) for _ in letter.encode()]
        at = 0
        for number, place in zip(ids, places, strict=True):
            size = len(spelled(tokenizer, kind, number))
            assert place == (owner[at], owner[at + size - 1] + 1), (text, place)
            at += size
        assert at == len(owner)


def test_word_pieces_spell_what_they_stand_for(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(folders["wordpiece"])
    encoded = tokenizer.encode_with_places(TEXTS)
    assert [one.ids for one in encoded] == tokenizer.encode_batch(TEXTS)
    pieces = 0
    for text, (ids, places) in zip(TEXTS, encoded, strict=True):
        assert places == sorted(places)
        covered = {at for place in places for at in range(*place)}
        assert all(text[at].isspace() or ord(text[at]) < 32 or not text[at].isprintable()
                   for at in set(range(len(text))) - covered)  # fmt: skip
        for number, (start, stop) in zip(ids, places, strict=True):
            if number != tokenizer.unknown_token:
                name = tokenizer._backend.id_to_token(number).removeprefix("##")
                if "\x00" not in text[start:stop]:
                    assert name == text[start:stop]
                    pieces += 1
    assert pieces > 300


def test_a_model_that_normalizes_gives_places_in_the_text(tmp_path: Path) -> None:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=(document.text for document in corpus()), model_writer=model,
        model_type="unigram", vocab_size=400, byte_fallback=True, minloglevel=2,
    )  # fmt: skip
    write_converted(model.getvalue(), tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.adds_space
    text = "ab  e\u0301  cd 漢"
    ids, places = tokenizer.encode_with_places([text])[0]
    assert ids == tokenizer.encode(text)
    assert {at for place in places for at in range(*place)} == set(range(len(text)))
    accented = [place for place in places if place == (4, 6)]  # two characters became é
    assert len(accented) == 2
    assert places[-3:] == [(len(text) - 1, len(text))] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_none_of_ours_adds_a_space(folders: dict[str, Path], kind: str) -> None:
    assert not Tokenizer.load(folders[kind]).adds_space
