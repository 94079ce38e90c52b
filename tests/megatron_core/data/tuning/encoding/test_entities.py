"""Tags of words to pieces and back, for every kind of tokenizer and length."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
import torch
from sentencepiece import SentencePieceTrainer

from kernels.cross_entropy import IGNORED
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.tokenizer.sentence_piece import write_converted
from megatron_core.data.tuning.encoding.entities import decode_tags, encode_sentences
from megatron_core.data.tuning.entities import Sentence
from megatron_core.data.tuning.tags import OUTSIDE
from megatron_core.data.tuning.words import split_words
from tests.tokenizers import HARD, KINDS, corpus

NAMES = ("O", "B-A", "I-A", "B-B", "I-B")


def sentences() -> list[Sentence]:
    """Texts that are hard to cut, and plain ones, with tags drawn for their words."""
    generator = random.Random(3)
    found = []
    texts = [*HARD[2:], *(document.text.replace(" ", ". ", 3) for document in corpus(20))]
    for number, text in enumerate(texts):
        words, tags = split_words(text), list[str]()
        for _ in words:
            before = tags[-1] if tags else OUTSIDE
            allowed = [n for n in NAMES if n[0] != "I" or before[1:] == n[1:]]
            tags.append(generator.choice(allowed))
        if words:
            found.append(Sentence(str(number), text, words, tuple(tags)))
    return found


@pytest.mark.parametrize("length", [12, 40, 3000])
@pytest.mark.parametrize("kind", KINDS)
def test_every_word_is_predicted_once(folders: dict[str, Path], kind: str, length: int) -> None:
    tokenizer, framed = Tokenizer.load(folders[kind]), kind == "wordpiece"
    given = sentences()
    found = encode_sentences(given, tokenizer, length=length, framed=framed, names=NAMES)
    labelled = found.words >= 0
    assert torch.equal(labelled, found.targets != IGNORED)
    seen = [
        (int(found.sentences[row]), int(found.words[row, at]))
        for row, at in torch.nonzero(labelled).tolist()
    ]
    words = [(n, word) for n, one in enumerate(given) for word in range(len(one.words))]
    hidden = found.counts.get("words_without_pieces", 0)
    assert seen == sorted(set(seen))
    assert len(seen) == len(words) - hidden
    if kind != "wordpiece":  # which drops control characters
        assert hidden == 0
    # Any other tag at the places that are not labelled changes nothing.
    predicted = torch.where(labelled, found.targets, 2)
    if not hidden:
        assert decode_tags(found, predicted, NAMES) == [one.tags for one in given]
    assert (found.counts.get("windowed", 0) == 0) == (length == 3000)


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_stands_where_its_word_begins(folders: dict[str, Path], kind: str) -> None:
    """The pieces from one label to the next spell the word of the first."""
    tokenizer, framed = Tokenizer.load(folders[kind]), kind == "wordpiece"
    text = "abc  de\nfgh   dab ab" if framed else "abc  de\nfgh.dab,"
    one = Sentence("x", text, split_words(text), (OUTSIDE,) * len(split_words(text)))
    found = encode_sentences([one], tokenizer, length=64, framed=framed, names=NAMES)
    row, words = found.rows.tokens[0], found.words[0]
    starts = torch.nonzero(words >= 0).flatten().tolist()
    last = int((found.rows.documents[0] >= 0).sum()) - 1  # without the end
    assert [int(words[at]) for at in starts] == list(range(len(one.words)))
    for at, stop, word in zip(starts, [*starts[1:], last], one.words, strict=True):
        spelled = tokenizer.decode(row[at:stop].tolist()).replace(" ##", "").strip()
        assert spelled == word.text
        assert tokenizer.decode([int(row[at])]).strip()  # not white space before it


def test_windows_end_after_a_sentence_where_they_can(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(folders["byte_bpe"])
    text = "a b c d e f. a b c d e f g h"
    one = Sentence("x", text, split_words(text), (OUTSIDE,) * 15)
    sizes = [len(tokenizer.encode(" " + w.text if n else w.text)) for n, w in enumerate(one.words)]
    found = encode_sentences([one], tokenizer, length=sum(sizes[:9]) + 2, framed=False, names=NAMES)
    assert [row[row >= 0].tolist() for row in found.words] == [
        list(range(7)), list(range(7, 15))
    ]  # fmt: skip


def test_an_inside_without_a_beginning_begins(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(folders["byte_bpe"])
    one = Sentence("x", "a b c", split_words("a b c"), (OUTSIDE,) * 3)
    found = encode_sentences([one], tokenizer, length=16, framed=False, names=NAMES)
    predicted = torch.full_like(found.targets, NAMES.index("I-B"))
    assert decode_tags(found, predicted, NAMES) == [("B-B", "I-B", "I-B")]


@pytest.mark.parametrize("kind", [*KINDS, "adds a space"])
def test_words_between_spaces_are_encoded_as_in_their_text(
    folders: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    if kind == "adds a space":
        model = io.BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=(document.text for document in corpus()), model_writer=model,
            model_type="bpe", vocab_size=400, byte_fallback=True, minloglevel=2,
            remove_extra_whitespaces=False,
        )  # fmt: skip
        write_converted(model.getvalue(), tmp_path)
        (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = Tokenizer.load(folders.get(kind, tmp_path))
    assert tokenizer.adds_space == (kind == "adds a space")
    text = corpus(1)[0].text
    words = split_words(text)
    one = Sentence("x", text, words, (OUTSIDE,) * len(words))
    found = encode_sentences([one], tokenizer, length=400, framed=False, names=NAMES)
    ids = tokenizer.encode(text)
    assert found.rows.tokens[0, : len(ids)].tolist() == ids
