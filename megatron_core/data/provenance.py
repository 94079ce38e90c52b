"""From tokens back to documents, to where these came from, and to what was done to them."""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from megatron_core.data.canaries import canary_of_row
from megatron_core.data.datasets.spans import DocumentSpan, Frame
from megatron_core.data.documents import Document, list_shards
from megatron_core.data.indexed import IndexedDataset, rows_path
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import IntegrityError

_COMPARED_LINES = 2000  # of a text, from where it begins to differ
_SHOWN_LINES, _SHOWN_CHARACTERS = 20, 160  # of a difference


@dataclass(frozen=True)
class Artifacts:
    """The folders of the stages that a token came through."""

    ingest: Path
    curate: Path
    dedup: Path
    decontaminate: Path
    tokenizer: Path
    tokenize: Path

    @classmethod
    def below(cls, folder: Path) -> Artifacts:
        """Those of a project, whose artifacts lie in ``folder``."""
        return cls(**{name: folder / name for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Curation:
    """What curation changed: ``edits`` as it noted them, ``diff`` the first lines that differ."""

    characters_before: int
    characters_after: int
    edits: Mapping[str, Any]
    diff: list[str]


@dataclass(frozen=True, kw_only=True)
class _History:
    """What was done to a document, or how often ``tokenize`` planted it."""

    origin: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    curation: Curation | None = None
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    planted: int | None = None


@dataclass(frozen=True, kw_only=True)
class TracedDocument(_History):
    """The part of a document that a sample holds, and the document's history.

    Attributes:
        id, source, row: The document, and its record in the source, from 0.
        positions: First position in the sample, and the one after the last.
        tokens: First token of the document, and the one after the last.
        document_tokens: All tokens of the document, its end included.
        text: What the tokens spell.
        origin: File and line it was read from; None where the source has no files.
        metadata: What else the source said of it.
        curation: What curation changed, None if nothing.
        duplicates: What dedup dropped in its favour: id, kind and similarity of each.
        split: Of decontamination.
        planted: Copies there are, of a canary: made up by `tokenize`, with a row below 0.
    """

    id: str
    source: str
    row: int
    positions: tuple[int, int]
    tokens: tuple[int, int]
    document_tokens: int
    text: str
    split: str = "train"


@dataclass(frozen=True)
class _Place:
    """A document in a stream of tokens: its row, first token and number of tokens."""

    row: int
    first: int
    tokens: int


def trace_spans(
    spans: Sequence[DocumentSpan],
    streams: Mapping[str, IndexedDataset],
    artifacts: Artifacts,
    *,
    frame: Frame | None = None,
    end_of_document: bool = True,
    parse_special_tokens: bool = False,
) -> list[TracedDocument]:
    """The documents that a sample of training tokens is made of, in its order.

    The text of each is encoded again, and must give the tokens that are there.

    Args:
        spans: What the sample is made of.
        streams: The training tokens of each source.
        artifacts: Of the stages that made them.
        frame: Tokens around the sample or its documents.
        end_of_document: Whether each document was ended by a token.
        parse_special_tokens: Whether special tokens in a text were taken for such.

    Raises:
        CorpusError: an artifact is missing or unreadable.
        IntegrityError: the artifacts do not belong together.
    """
    tokenizer = Tokenizer.load(artifacts.tokenizer, parse_special_tokens=parse_special_tokens)
    places = [_place(streams[span.source], span) for span in spans]
    ids = [f"{span.source}/{place.row}" for span, place in zip(spans, places, strict=True)]
    real = [id for id, place in zip(ids, places, strict=True) if place.row >= 0]
    histories = _histories(artifacts, real)
    traced, position = [], 0
    for number, (span, place, id) in enumerate(zip(spans, places, ids, strict=True)):
        if place.row < 0:
            canary = canary_of_row(artifacts.tokenize, place.row)
            text, history = canary.text, _History(planted=canary.copies)
        else:
            text, history = histories[id]
        tokens = streams[span.source].tokens
        ids_there = tokens[place.first : place.first + place.tokens].tolist()
        _check_tokens(tokenizer, id, text, ids_there, end_of_document)
        if frame is not None and (frame.each_document or number == 0):
            position += 1
        traced.append(
            TracedDocument(
                id=id,
                source=span.source,
                row=place.row,
                positions=(position, position + span.tokens),
                tokens=(span.first - place.first, span.first - place.first + span.tokens),
                document_tokens=place.tokens,
                text=tokenizer.decode(tokens[span.first : span.first + span.tokens].tolist()),
                **vars(history),
            )
        )
        position += span.tokens + (frame is not None and frame.ends_each)
    return traced


def _histories(artifacts: Artifacts, ids: Sequence[str]) -> dict[str, tuple[str, _History]]:
    """Text and history of each of the documents ``ids``."""
    trained, shards = _find(artifacts.decontaminate / "train", ids)
    stages = {
        name: _find_in(getattr(artifacts, name) / "documents", shards)
        for name in ("dedup", "curate", "ingest")
    }
    duplicates = _duplicates(artifacts.dedup / "duplicates.jsonl", ids)
    histories = {}
    for id, document in trained.items():
        read, curated = stages["ingest"][id], stages["curate"][id]
        _check_texts(document, stages["dedup"][id], curated)
        metadata = dict(read.metadata)
        history = _History(
            origin=metadata.pop("origin", None),
            metadata=metadata,
            curation=_curation(read, curated),
            duplicates=duplicates[id],
        )
        histories[id] = document.text, history
    return histories


def _place(stream: IndexedDataset, span: DocumentSpan) -> _Place:
    """The document that ``span`` is part of."""
    size = stream.dtype.itemsize
    document = bisect_right(stream.offsets, span.first * size) - 1
    path = rows_path(stream.prefix)
    try:
        rows = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} cannot be read: run `reforge tokenize` again") from error
    if len(rows) != len(stream):
        raise IntegrityError(
            f"{path} has {len(rows)} rows for {len(stream)} documents: run `reforge tokenize` again"
        )
    first = int(stream.offsets[document]) // size
    return _Place(int(rows[document]), first, int(stream.lengths[document]))


def _find(folder: Path, ids: Iterable[str]) -> tuple[dict[str, Document], dict[str, list[str]]]:
    """The documents ``ids`` in the shards of ``folder``, and which are in which shard."""
    missing, found = set(ids), {}
    shards: dict[str, list[str]] = {}
    for path in list_shards(folder):
        for id, document in _documents(path, sorted(missing)):
            found[id] = document
            shards.setdefault(path.name, []).append(id)
        missing -= found.keys()
        if not missing:
            return found, shards
    raise _torn(folder, sorted(missing))


def _find_in(folder: Path, shards: Mapping[str, Sequence[str]]) -> dict[str, Document]:
    """As :func:`_find`; every stage keeps a document in the shard of the same name."""
    found: dict[str, Document] = {}
    for name, ids in shards.items():
        found |= dict(_documents(folder / name, ids))
        if missing := [id for id in ids if id not in found]:
            raise _torn(folder / name, missing)
    return found


def _documents(path: Path, ids: Sequence[str]) -> Iterator[tuple[str, Document]]:
    """Those of the documents ``ids`` that the shard at ``path`` has."""
    for id in ids:
        # A line begins with its id, and a newline within a text is escaped.
        for line in _lines_with(path, b'{"id":"%s",' % id.encode(), begins=True):
            try:
                yield id, Document.from_line(line)
            except ValueError as error:
                raise IntegrityError(f"{path}: {id} is damaged: {error}") from error


def _duplicates(path: Path, ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """What was dropped in favour of each document of ``ids``."""
    found = {}
    for id in ids:
        lines = map(orjson.loads, _lines_with(path, b'"kept":"%s"' % id.encode()))
        shown = ("id", "kind", "similarity")
        found[id] = [{key: line[key] for key in shown} for line in lines if line["kept"] == id]
    return found


def _lines_with(path: Path, needle: bytes, *, begins: bool = False) -> Iterator[bytes]:
    """The lines of a file that hold ``needle``, or begin with it; read at the speed of a search."""
    try:
        if not path.stat().st_size:  # an empty file cannot be mapped
            return
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            at = 0
            while (at := text.find(needle, at)) >= 0:
                start = text.rfind(b"\n", 0, at) + 1
                end = text.find(b"\n", at)
                end = len(text) if end < 0 else end
                if start == at or not begins:
                    yield text[start:end]
                at = end
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error


def _check_tokens(
    tokenizer: Tokenizer, id: str, text: str, tokens: list[int], end_of_document: bool
) -> None:
    end = [tokenizer.end_of_document] if end_of_document else []
    if tokenizer.encode(text) + end != tokens:
        raise IntegrityError(
            f"the text of {id} does not give the tokens that were trained on: its shard "
            "or the tokenizer was changed; run `reforge tokenize` again"
        )


def _check_texts(document: Document, *earlier: Document) -> None:
    """After curation no stage changes a text."""
    if any(one.text != document.text for one in earlier):
        raise IntegrityError(
            f"{document.id} has another text after curation than before tokenization: a shard was "
            "changed; run `reforge audit` to see which"
        )


def _curation(before: Document, after: Document) -> Curation | None:
    edits = after.metadata.get("edits", {})
    if before.text == after.text and not edits:
        return None
    return Curation(len(before.text), len(after.text), edits, _difference(before.text, after.text))


def _difference(before: str, after: str) -> list[str]:
    """The first lines that differ, as a unified diff without its header."""
    old, new = before.split("\n"), after.split("\n")
    same = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0)
    part = slice(same, same + _COMPARED_LINES)
    lines = unified_diff(old[part], new[part], n=0, lineterm="")
    changed = [line for n, line in enumerate(lines) if n > 1 and not line.startswith("@@")]
    shown = [
        line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}…"
        for line in changed[:_SHOWN_LINES]
    ]
    return shown + ["…"] * (len(changed) > _SHOWN_LINES)


def _torn(place: Path, missing: Sequence[str]) -> IntegrityError:
    return IntegrityError(
        f"{place} does not hold {', '.join(missing)}, which training saw: run `reforge audit` to "
        "see what was changed"
    )
