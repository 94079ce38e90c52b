"""BRAT standoff (Stenetorp et al., 2012): ``name.txt`` and, beside it, ``name.ann``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from megatron_core.data.tuning.reading import Items, read_exactly, read_text
from megatron_core.data.tuning.spans import AnnotatedText, Relation, Span
from megatron_core.errors import CorpusError


def read_brat(folder: Path) -> Items[AnnotatedText]:
    """The annotated texts below ``folder``, in the order of their names, which are their ids.

    Text-bound annotations (T) and binary relations (R) are read; lines of other kinds (events,
    attributes, notes, …) are counted as ``other_annotations``. Offsets count the characters of
    the text file as it is, its line ends too.

    Raises:
        CorpusError: there are no texts, one has no annotations file or the other way round, a
            line is none of BRAT's, or offsets and text do not agree; with file and line.
    """
    texts = {path.with_suffix("") for path in folder.rglob("*.txt")}
    notes = {path.with_suffix("") for path in folder.rglob("*.ann")}
    if not texts:
        raise CorpusError(f"{folder} holds no BRAT documents: there are no *.txt in it")
    for stem in sorted(texts ^ notes):
        there, missing = (".txt", ".ann") if stem in texts else (".ann", ".txt")
        raise CorpusError(f"{stem}{there} has no {stem.name}{missing} beside it")
    counts: Counter[str] = Counter()
    ids = {stem.relative_to(folder).as_posix(): stem for stem in texts}
    return Items(tuple(_document(ids[id], id, counts) for id in sorted(ids)), dict(counts))


def _document(stem: Path, id: str, counts: Counter[str]) -> AnnotatedText:
    text = read_exactly(stem.parent / f"{stem.name}.txt")
    path = stem.parent / f"{stem.name}.ann"
    spans: dict[str, Span] = {}
    relations: list[tuple[str, Relation]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        place = f"{path}:{number}"
        if line.startswith("T"):
            span = _span(place, line, text)
            if span.id in spans:
                raise CorpusError(f"{place}: the id {span.id} comes twice")
            spans[span.id] = span
        elif line.startswith("R"):
            relations.append((place, _relation(place, line)))
        elif line.strip():
            if line[0] not in "EAMN#*":
                raise CorpusError(f"{place}: {line[:40]!r} begins none of BRAT's annotations")
            counts["other_annotations"] += 1
    for place, relation in relations:
        for one in (relation.head, relation.tail):
            if one not in spans:
                raise CorpusError(f"{place}: relation with {one}, and there is no such entity")
    return AnnotatedText(
        id, text, tuple(spans.values()), tuple(one for _, one in relations), group=id
    )


def _span(place: str, line: str, text: str) -> Span:
    try:
        id, middle, *covered = line.split("\t")
        kind, _, offsets = middle.partition(" ")
        pairs = [part.split() for part in offsets.split(";")]
        fragments = tuple(sorted((int(start), int(stop)) for start, stop in pairs))
    except ValueError as error:
        raise CorpusError(
            f"{place}: {line[:60]!r} is not `T1<tab>Type start end[;start end]<tab>text`"
        ) from error
    if not kind or any(not 0 <= start < stop <= len(text) for start, stop in fragments):
        raise CorpusError(
            f"{place}: offsets {offsets} are not within the text's {len(text)} characters"
        )
    found = " ".join(text[start:stop] for start, stop in fragments)
    if covered and " ".join(covered[0].split()) != " ".join(found.split()):
        raise CorpusError(f"{place}: says {covered[0]!r}, and the text has {found!r} there")
    return Span(id, kind, fragments)


def _relation(place: str, line: str) -> Relation:
    try:
        _, middle, *_ = line.split("\t")
        kind, first, second = middle.split()
        roles = dict(part.split(":", 1) for part in (first, second))
        (_, head), (_, tail) = sorted(roles.items())
    except ValueError as error:
        raise CorpusError(f"{place}: {line[:60]!r} is not `R1<tab>Type Arg1:T1 Arg2:T2`") from error
    return Relation(kind, head, tail)
