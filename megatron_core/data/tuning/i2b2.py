"""The files of i2b2 2010 (Uzuner et al., 2011): concepts and relations by line and word."""

from __future__ import annotations

import re
from pathlib import Path

from megatron_core.data.tuning.reading import Items, read_text
from megatron_core.data.tuning.spans import AnnotatedText, Relation, Span
from megatron_core.errors import CorpusError

TEXTS, CONCEPTS, RELATIONS = "txt", "concept", "rel"
_PLACE = (
    r'c="(?P<text{0}>.*?)" (?P<line{0}>\d+):(?P<first{0}>\d+) (?P<stop{0}>\d+):(?P<last{0}>\d+)'
)
_CONCEPT = re.compile(rf'{_PLACE.format(1)}\|\|t="(?P<type>[^"]+)"')
_RELATION = re.compile(rf'{_PLACE.format(1)}\|\|r="(?P<type>[^"]+)"\|\|{_PLACE.format(2)}')


def is_i2b2(folder: Path) -> bool:
    """Whether ``folder`` is laid out so."""
    return (folder / CONCEPTS).is_dir()


def read_i2b2(folder: Path) -> Items[AnnotatedText]:
    """The texts ``txt/name.txt`` with ``concept/name.con`` and maybe ``rel/name.rel``.

    Lines count from 1, words of a line, between white space, from 0. A relation's concepts are
    those at its places, of several at one place the first.

    Raises:
        CorpusError: there are no texts, one has no concepts, or a line is none of the layout's or
            names what is not there; with file and line.
    """
    texts = sorted((folder / TEXTS).glob("*.txt"))
    if not texts:
        raise CorpusError(f"{folder / TEXTS} holds no *.txt")
    return Items(tuple(_document(folder, path.stem) for path in texts), {})


def _document(folder: Path, name: str) -> AnnotatedText:
    text = read_text(folder / TEXTS / f"{name}.txt")
    words = _words(text)
    spans: list[Span] = []
    by_place: dict[tuple[int, int], str] = {}
    path = folder / CONCEPTS / f"{name}.con"
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            found = _match(f"{path}:{number}", _CONCEPT, line)
            place = _place(f"{path}:{number}", found, 1, text, words)
            spans.append(Span(f"T{len(spans) + 1}", found["type"], (place,)))
            by_place.setdefault(place, spans[-1].id)
    relations = []
    path = folder / RELATIONS / f"{name}.rel"
    for number, line in enumerate(read_text(path).split("\n") if path.is_file() else [], start=1):
        if line.strip():
            where = f"{path}:{number}"
            found = _match(where, _RELATION, line)
            ends = [_place(where, found, n, text, words) for n in (1, 2)]
            if missing := [end for end in ends if end not in by_place]:
                said = text[slice(*missing[0])]
                raise CorpusError(f"{where}: no concept {said!r} is in {CONCEPTS}/{name}.con")
            relations.append(Relation(found["type"], *(by_place[end] for end in ends)))
    return AnnotatedText(name, text, tuple(spans), tuple(relations), group=name)


def _words(text: str) -> list[list[tuple[int, int]]]:
    found, at = [], 0
    for line in text.split("\n"):
        found.append([(at + m.start(), at + m.end()) for m in re.finditer(r"\S+", line)])
        at += len(line) + 1
    return found


def _match(where: str, layout: re.Pattern[str], line: str) -> re.Match[str]:
    found = layout.fullmatch(line.strip())
    if found is None:
        ends = 't="type"' if layout is _CONCEPT else 'r="type"||c="text" 1:4 1:5'
        raise CorpusError(f'{where}: {line[:60]!r} is not `c="text" 1:0 1:2||{ends}`')
    return found


def _place(
    where: str, found: re.Match[str], side: int, text: str, words: list[list[tuple[int, int]]]
) -> tuple[int, int]:
    line, first, stop, last = (
        int(found[f"{part}{side}"]) for part in ("line", "first", "stop", "last")
    )
    try:
        if line < 1:
            raise IndexError
        place = words[line - 1][first][0], words[stop - 1][last][1]
    except IndexError as error:
        raise CorpusError(
            f"{where}: the text has no words {line}:{first} to {stop}:{last}"
        ) from error
    said, there = found[f"text{side}"], text[slice(*place)]
    if said.lower().split() != there.lower().split():  # the files have it in lower case
        raise CorpusError(f"{where}: says {said!r}, and the text has {there!r} there")
    return place
