"""What training knows of a vocabulary, from tokenizers of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from megatron_core.data.vocabulary import Vocabulary
from megatron_core.errors import CorpusError

SPECIAL = {"mask_token": "[MASK]", "cls_token": {"content": "[CLS]"}, "sep_token": "[SEP]"}
NAMES = ["[MASK]", "[CLS]", "[SEP]"]


def write(folder: Path, backend: Tokenizer, **config: object) -> Path:
    backend.add_special_tokens(NAMES)
    (folder / "tokenizer.json").write_text(backend.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def wordpiece() -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate(["heart", "##ache", "ache", "#", "##s"])}
    return Tokenizer(models.WordPiece(vocabulary, unk_token="#"))


def byte_level() -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate(["heart", "Ġheart", "ache", "Ġ", "Ċ", "č"])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    return backend


def sentencepiece() -> Tokenizer:
    pieces = [("<unk>", 0.0), ("▁heart", -1.0), ("heart", -1.0), ("▁", -2.0), ("ache", -2.0)]
    backend = Tokenizer(models.Unigram(pieces, 0, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return backend


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (wordpiece, ["heart", "ache", "#"]),
        (byte_level, ["Ġheart", "Ġ", "Ċ", "č"]),
        (sentencepiece, ["▁heart", "▁"]),
    ],
)
def test_words_begin_where_the_tokenizer_marks_them(
    kind: type, words: list[str], tmp_path: Path
) -> None:
    backend = kind()
    made = Vocabulary.of_tokenizer(write(tmp_path, backend, **SPECIAL))
    assert made.size == backend.get_vocab_size()
    assert {backend.id_to_token(i) for i in np.flatnonzero(made.begins_word)} == {*words, *NAMES}
    assert made.special == {
        role: backend.token_to_id(f"[{role.upper()}]") for role in ("cls", "sep", "mask")
    }


def test_it_is_written_and_read(tmp_path: Path) -> None:
    made = Vocabulary.of_tokenizer(write(tmp_path, byte_level(), **SPECIAL))
    made.write(tmp_path)
    read = Vocabulary.read(tmp_path)
    assert (read.size, read.special) == (made.size, made.special)
    assert read.begins_word.tolist() == made.begins_word.tolist()


def test_a_role_that_is_missing_is_named(tmp_path: Path) -> None:
    made = Vocabulary.of_tokenizer(write(tmp_path, wordpiece(), cls_token="[CLS]", mask_token=None))
    assert made.require("cls") == made.special["cls"]
    with pytest.raises(CorpusError, match=r"has no mask_token.* it has cls"):
        made.require("mask")


@pytest.mark.parametrize("content", [None, "", "{}", '{"size": 9, "special": {}}'])
def test_an_unreadable_one_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "vocabulary.json").write_text(content)
    with pytest.raises(CorpusError, match=r"vocabulary\.json .*run `reforge tokenize` again"):
        Vocabulary.read(tmp_path)
