"""Texts with entities and relations by their characters: JSON lines, BRAT, i2b2 2010."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_core.data.tuning.brat import read_brat
from megatron_core.data.tuning.i2b2 import is_i2b2, read_i2b2
from megatron_core.data.tuning.reading import Items, Row, read_rows
from megatron_core.data.tuning.spans import AnnotatedText, Relation, Span
from megatron_core.data.tuning.texts import check_ids
from megatron_core.errors import CorpusError


@dataclass(frozen=True)
class AnnotationFields:
    """The names of fields of annotated JSON lines."""

    text: str = "text"
    entities: str = "entities"
    relations: str = "relations"
    id: str | None = None
    group: str | None = None


def read_annotations(path: Path, fields: AnnotationFields | None = None) -> Items[AnnotatedText]:
    """Annotated texts: a folder is BRAT's or that of i2b2 2010, a file is JSON lines.

    In JSON an entity is ``[start, end, type]`` or an object with ``start``, ``end``, ``type`` (or
    ``label``) and maybe ``id`` and ``text``; a relation is an object with ``head``, ``tail`` and
    ``type``. Offsets count characters; ``end`` is the one after the last.

    Raises:
        CorpusError: what cannot be read, with file and line.
    """
    if path.is_dir():
        return read_i2b2(path) if is_i2b2(path) else read_brat(path)
    fields = fields or AnnotationFields()
    texts = tuple(_annotated(row, fields) for row in read_rows(path))
    check_ids(path, [text.id for text in texts])
    return Items(texts, {})


def _annotated(row: Row, fields: AnnotationFields) -> AnnotatedText:
    text = row.text(fields.text)
    spans = tuple(
        _span(row, value, number, text)
        for number, value in enumerate(_list(row, fields.entities), start=1)
    )
    counted = Counter(span.id for span in spans)
    if twice := [name for name, count in counted.items() if count > 1]:
        raise CorpusError(f"{row.place}: two entities have the id {twice[0]!r}")
    named = fields.relations in row.values
    relations = tuple(
        _relation(row, value, set(counted))
        for value in (_list(row, fields.relations) if named else [])
    )
    id = row.id if fields.id is None else row.text(fields.id)
    group = row.optional(fields.group) or id
    return AnnotatedText(id, text, spans, relations, group)


def _list(row: Row, name: str) -> list[Any]:
    value = row.value(name)
    if not isinstance(value, list):
        raise CorpusError(f"{row.place}: field {name!r} is no list")
    return value


def _span(row: Row, value: Any, number: int, text: str) -> Span:
    if isinstance(value, list) and len(value) == 3:
        value = dict(zip(("start", "end", "type"), value, strict=True))
    if not isinstance(value, Mapping):
        raise CorpusError(f"{row.place}: entity {number} is neither [start, end, type] nor object")
    start, stop = value.get("start"), value.get("end")
    kind = value.get("type", value.get("label"))
    if not isinstance(kind, str) or not kind:
        raise CorpusError(f"{row.place}: entity {number} has no `type` (or `label`)")
    if type(start) is not int or type(stop) is not int or not 0 <= start < stop <= len(text):
        raise CorpusError(
            f"{row.place}: entity {number} has start {start!r} and end {stop!r}; allowed is "
            f"0 ≤ start < end ≤ {len(text)}, the text's length"
        )
    said = value.get("text")
    if said is not None and said != text[start:stop]:
        raise CorpusError(
            f"{row.place}: entity {number} says {said!r}, and the text has {text[start:stop]!r} "
            f"at {start}"
        )
    return Span(str(value.get("id", f"T{number}")), kind, ((start, stop),))


def _relation(row: Row, value: Any, known: set[str]) -> Relation:
    if not isinstance(value, Mapping) or not {"head", "tail", "type"} <= set(value):
        raise CorpusError(f"{row.place}: a relation is an object with `head`, `tail` and `type`")
    head, tail = str(value["head"]), str(value["tail"])
    for one in (head, tail):
        if one not in known:
            raise CorpusError(f"{row.place}: a relation names entity {one!r}, which is not there")
    return Relation(str(value["type"]), head, tail)
