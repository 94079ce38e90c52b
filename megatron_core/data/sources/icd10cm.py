"""ICD-10-CM's tabular list, from the simple-icd-10-cm package."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from typing import Any

from megatron_core.data.sources.source import Record
from megatron_core.errors import MissingExtraError

# "(E08.-)", "(O10-O11, O13-O16)", "(T36-T50 with fifth or sixth character 5)"
_BRACKETED = re.compile(r"\s*[\[(][^()\[\]]*\b[A-Z](?:\d[\dA-Z]|A\d)\b[^()\[\]]*[\])]")
_NAMES_CODES = re.compile(r"\b[A-Z](?:\d[\dA-Z]|A\d)\b|chapter", re.IGNORECASE)
_LONGEST = 5  # characters; the sixth and seventh tell sides, encounters and fetuses apart


class Icd10CmCategories:
    """A record per three-character category: what it is called, what it includes and excludes,
    and its subcategories.

    The text names neither its codes nor its chapter: the chapter is what a classifier predicts.
    """

    def __iter__(self) -> Iterator[Record]:
        """Read the categories in the order of the tabular list.

        Raises:
            MissingExtraError: simple-icd-10-cm is not installed.
        """
        if importlib.util.find_spec("simple_icd_10_cm") is None:
            raise MissingExtraError("simple-icd-10-cm", "texts")
        import simple_icd_10_cm as icd  # parses the list when imported: seconds

        # A block of one category has its name, so such codes stand in the list twice.
        for code in dict.fromkeys(icd.get_all_codes(with_dots=True)):
            if icd.is_category(code):
                yield _record(icd, code)


def _record(icd: Any, category: str) -> Record:
    codes = [[code, icd.get_description(code)] for code in [category, *_subcodes(icd, category)]]
    chapter = icd.get_ancestors(category)[-1]
    return Record(
        _text(icd, category, [code for code, _ in codes[1:]]),
        {"category": category, "chapter": chapter, "codes": codes},
    )


def _subcodes(icd: Any, code: str) -> Iterator[str]:
    """The subcategories below ``code``, depth first, down to five characters: what is below
    them repeats one phrase thousands of times."""
    for child in icd.get_children(code):
        if len(child.replace(".", "")) <= _LONGEST:
            # A placeholder X repeats its parent only to make room for later characters.
            if icd.get_description(child) != icd.get_description(code):
                yield child
            yield from _subcodes(icd, child)


def _text(icd: Any, category: str, subcodes: list[str]) -> str:
    lines = [f"{icd.get_description(category)}."]
    lines += _notes(icd, category)
    for code in subcodes:
        line = icd.get_description(code)
        if terms := _cleaned(icd.get_inclusion_term(code)):
            line += f" ({'; '.join(terms)})"
        lines.append(f"{line}.")
    return "\n".join(lines)


def _notes(icd: Any, code: str) -> Iterator[str]:
    for label, notes in (
        ("Includes", [*icd.get_inclusion_term(code), *icd.get_includes(code)]),
        ("Excludes", [*icd.get_excludes1(code), *icd.get_excludes2(code)]),
    ):
        if terms := _cleaned(notes):
            yield f"{label}: {'; '.join(terms)}."


def _cleaned(notes: list[str]) -> list[str]:
    """``notes`` without codes; those that mean nothing without them are left out."""
    bare = (" ".join(_BRACKETED.sub("", note).split()).rstrip(" .:;,") for note in notes)
    return list(dict.fromkeys(note for note in bare if note and not _NAMES_CODES.search(note)))
