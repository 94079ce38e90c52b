"""Words to tag, as pieces, and tags of words from predictions of pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.data.tokenizer import Pieces, Tokenizer
from megatron_core.data.tuning.encoding.rows import Framing, Rows, pad
from megatron_core.data.tuning.entities import Sentence
from megatron_core.data.tuning.tags import OUTSIDE, to_iob2
from megatron_core.data.tuning.texts import check_known

_NO_WORD = -1
_ENDS = ".?!"


@dataclass(frozen=True)
class EncodedSentences:
    """Windows of sentences; every word is in one of them.

    Attributes:
        rows: Their tokens.
        targets: int64 ``[n, length]``: the number of a word's tag at its first piece, else
            ``IGNORED``.
        words: int64 ``[n, length]``: which word of its sentence is predicted there, else -1.
        sentences: int64 ``[n]``: the sentence of each row, from 0.
        sizes: Words of each sentence.
        counts: Sentences in several windows (``windowed``), words with more pieces than a window
            holds (``cut_words``), words that the tokenizer drops (``words_without_pieces``),
            which are never predicted.
    """

    rows: Rows
    targets: Tensor
    words: Tensor
    sentences: Tensor
    sizes: tuple[int, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Of one word: its ids, and which of them is labelled; None when it has none."""

    ids: list[int]
    labelled: int | None


def encode_sentences(
    sentences: Sequence[Sentence],
    tokenizer: Tokenizer,
    *,
    length: int,
    framed: bool,
    names: Sequence[str],
) -> EncodedSentences:
    """Windows of at most ``length`` tokens, each of whole words.

    Every word is encoded alone with the white space before it, so that no piece is of two words.
    A sentence that does not fit goes on in another window: after the last end of a sentence in
    the second half of the window, or at the window's end.

    Args:
        sentences: With tags among ``names``.
        tokenizer: Of the model.
        length: Tokens of a row.
        framed: For an encoder.
        names: The tags, in the order of their numbers.

    Raises:
        CorpusError: a tag is none of ``names``.
        ConfigError: ``length`` is too short.
    """
    framing = Framing(tokenizer, length, framed=framed)
    check_known((tag for one in sentences for tag in one.tags), names, "the data")
    numbers = {name: number for number, name in enumerate(names)}
    counts: Counter[str] = Counter()
    sequences, targets, words, owners = [], [], [], []
    encoded = _encode_words(sentences, tokenizer, framing.room)
    for number, (one, pieces) in enumerate(zip(sentences, encoded, strict=True)):
        counts["words_without_pieces"] += sum(word.labelled is None for word in pieces)
        counts["cut_words"] += sum(len(word.ids) > framing.room for word in pieces)
        windows = _windows(one, [len(word.ids) for word in pieces], framing.room)
        counts["windowed"] += len(windows) > 1
        for first, stop in windows:
            ids: list[int] = []
            row = [IGNORED] * length
            places = [_NO_WORD] * length
            for word in range(first, stop):
                labelled = pieces[word].labelled
                kept = pieces[word].ids[: framing.room]
                if labelled is not None:
                    at = framing.start() + len(ids) + labelled
                    row[at], places[at] = numbers[one.tags[word]], word
                ids += kept
            sequences.append([ids])
            targets.append(row)
            words.append(places)
            owners.append(number)
    return EncodedSentences(
        framing.rows(sequences), pad(targets, length, IGNORED), pad(words, length, _NO_WORD),
        torch.tensor(owners, dtype=torch.int64), tuple(len(one.words) for one in sentences),
        dict(sorted((+counts).items())),
    )  # fmt: skip


def decode_tags(
    encoded: EncodedSentences, predicted: Tensor, names: Sequence[str]
) -> list[tuple[str, ...]]:
    """The IOB2 tags of each sentence; an I that continues nothing begins an entity.

    Args:
        encoded: What was predicted.
        predicted: int64 ``[n, length]``, numbers of tags; those of other places are not read.
        names: The tags, in the order of their numbers.
    """
    found = [[OUTSIDE] * size for size in encoded.sizes]
    rows, places = torch.nonzero(encoded.words != _NO_WORD, as_tuple=True)
    labelled = encoded.sentences[rows], encoded.words[rows, places], predicted[rows, places]
    for sentence, word, tag in zip(*(one.tolist() for one in labelled), strict=True):
        found[sentence][word] = names[tag]
    return [to_iob2(tags) for tags in found]


def _encode_words(
    sentences: Sequence[Sentence], tokenizer: Tokenizer, room: int
) -> list[list[_Pieces]]:
    """The words of each sentence; one that does not fit is without the white space before it."""
    wanted: list[list[tuple[str, int]]] = []
    for one in sentences:
        at, parts = 0, []
        for word in one.words:
            before = one.text[at : word.start]
            if tokenizer.adds_space and before.endswith(" "):
                before = before[:-1]
            parts.append((before + word.text, len(before)))
            at = word.stop
        wanted.append(parts)
    texts = list(dict.fromkeys(text for parts in wanted for text, _ in parts))
    known = dict(zip(texts, tokenizer.encode_with_places(texts), strict=True))
    return [[_pieces(known[text], start, room) for text, start in parts] for parts in wanted]


def _pieces(found: Pieces, start: int, room: int) -> _Pieces:
    """Of a word that begins at character ``start`` of what was encoded."""
    labelled = next((n for n, (_, stop) in enumerate(found.places) if stop > start), None)
    if labelled is not None and len(found.ids) > room:
        return _Pieces(found.ids[labelled:], 0)
    return _Pieces(found.ids, labelled)


def _windows(one: Sentence, sizes: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Words ``first … stop - 1`` of each window."""
    found, first, used = [], 0, 0
    last_end, used_then = 0, 0
    for word, size in enumerate(min(size, room) for size in sizes):
        if used + size > room:
            stop, carried = word, 0
            if last_end > first and 2 * used_then >= room:
                stop, carried = last_end, used - used_then
            found.append((first, stop))
            first, used = stop, carried
            if used + size > room:  # what was carried over and this word
                found.append((first, word))
                first, used = word, 0
        used += size
        after = one.words[word].stop
        ends = one.words[word].text in _ENDS or one.text[after : after + 1] == "\n"
        if ends:
            last_end, used_then = word + 1, used
    return [*found, (first, len(sizes))] if sizes else found
