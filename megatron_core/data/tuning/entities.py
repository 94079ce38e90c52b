"""Named entities: words with IOB2 tags, of CoNLL columns, BRAT or JSON lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_core.data.tuning.annotations import AnnotationFields, read_annotations
from megatron_core.data.tuning.reading import Items, read_text
from megatron_core.data.tuning.spans import flat_mentions
from megatron_core.data.tuning.tags import OUTSIDE, tags_of, to_iob2
from megatron_core.data.tuning.words import Word, split_words
from megatron_core.errors import CorpusError

_COLUMNS = (".tsv", ".conll", ".iob", ".iob2", ".bio", ".txt")
_DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words with their tags: a sentence of columns, or a whole annotated text.

    Attributes:
        id: File and first line, or the text's name.
        text: What the words' offsets count in; of columns the words with spaces between.
        words: In their order.
        tags: IOB2, one a word.
        group: What it belongs with: its document.
    """

    id: str
    text: str
    words: tuple[Word, ...]
    tags: tuple[str, ...]
    group: str | None = None


def read_sentences(
    path: Path, *, word: int = 0, tag: int = -1, fields: AnnotationFields | None = None
) -> Items[Sentence]:
    """The sentences of a file of columns, or the texts of BRAT's folder or of JSON lines.

    Columns are parted by tabs, or by spaces where a line has no tab; a blank line ends a
    sentence, and ``-DOCSTART-`` begins a document. Tags may be IOB1, IOB2, IOBES or BILOU.
    What becomes of spans that tags cannot say: :func:`flat_mentions`.

    Args:
        path: Of columns if it ends in .tsv, .conll, .iob, .iob2, .bio or .txt.
        word: The words' column, from 0; negative from the last.
        tag: The tags' column.
        fields: Names of fields of JSON lines.

    Raises:
        CorpusError: what cannot be read, with file and line; no sentence, or none with an entity.
    """
    if path.suffix.lower() in _COLUMNS and not path.is_dir():
        items = Items(tuple(_columns(path, word, tag)), {})
    else:
        items = _annotated(path, fields)
    if not any(set(one.tags) - {OUTSIDE} for one in items.items):
        raise CorpusError(f"{path} has no entity in {len(items.items)} sentences")
    return items


def _annotated(path: Path, fields: AnnotationFields | None) -> Items[Sentence]:
    read = read_annotations(path, fields)
    counts = Counter(read.counts)
    found = []
    for one in read.items:
        words = split_words(one.text)
        kept, changed = flat_mentions(one.text, words, one.spans)
        counts += changed
        if words:
            tags = tags_of(len(words), kept)
            found.append(Sentence(one.id, one.text, words, tags, one.group))
        else:
            counts["empty_texts_left_out"] += 1
    return Items(tuple(found), dict(sorted(counts.items())))


def _columns(path: Path, word: int, tag: int) -> Iterator[Sentence]:
    start, words, tags = 0, list[str](), list[str]()
    documents = 0
    for number, line in enumerate([*read_text(path).split("\n"), ""], start=1):
        cells = line.split("\t") if "\t" in line else line.split()
        if cells and cells[0].strip() != _DOCUMENT and line.strip():
            if not words:
                start = number
            try:
                words.append(cells[word].strip())
                tags.append(cells[tag].strip())
            except IndexError as error:
                raise CorpusError(
                    f"{path}:{number}: {len(cells)} columns, too few for word in column {word} and "
                    f"tag in column {tag}"
                ) from error
            if len(cells) < 2 or not words[-1] or not tags[-1]:
                raise CorpusError(f"{path}:{number}: {line!r} is not a word and a tag")
            continue
        if words:
            group = f"{path.name}/{documents}" if documents else None
            yield _sentence(path, start, words, tags, group)
            words, tags = [], []
        documents += bool(cells) and cells[0].strip() == _DOCUMENT


def _sentence(
    path: Path, line: int, words: Sequence[str], tags: Sequence[str], group: str | None
) -> Sentence:
    places, at = [], 0
    for word in words:
        places.append(Word(word, at, at + len(word)))
        at += len(word) + 1
    try:
        normal = to_iob2(tags)
    except ValueError as error:
        raise CorpusError(f"{path}:{line}: in the sentence that begins here, {error}") from error
    return Sentence(f"{path.name}:{line}", " ".join(words), tuple(places), normal, group)
