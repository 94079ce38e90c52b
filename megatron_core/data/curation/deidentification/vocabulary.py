"""Lists: names, words that are none, and the words of clinical notes that tell them."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import regex
import yaml

from megatron_core.errors import MissingExtraError

_LISTS = Path(__file__).with_name("lists.yaml")
_NEXT_WORD = regex.compile(r"(?:['’]s?)?[ -](\p{L}+)")


@dataclass(frozen=True)
class Vocabulary:
    """philter's lists of names and of words, and ours in ``lists``; all in lower case."""

    first: frozenset[str]
    last: frozenset[str]
    words: frozenset[str]
    lists: dict[str, Any]

    def is_first(self, word: str) -> bool:
        """Whether people are called ``word``, parts between hyphens looked at one by one."""
        return any(part in self.first for part in _parts(word))

    def is_name(self, word: str) -> bool:
        """Whether ``word`` is a first or a last name."""
        return any(part in self.first or part in self.last for part in _parts(word))

    def is_word(self, word: str) -> bool:
        """Whether ``word`` is one of the language or of medicine."""
        return all(part in self.words for part in _parts(word))

    def may_be_name(self, word: str) -> bool:
        """Whether ``word`` is a name, or unknown: enough where a label announces a name."""
        return self.is_name(word) or not self.is_word(word)

    def is_eponym(self, text: str, end: int) -> bool:
        """Whether the name that ends at ``end`` is that of a disease, an instrument or a test."""
        following = _NEXT_WORD.match(text, end)
        return following is not None and following[1].lower() in self.lists["eponyms"]


def alternatives(words: Iterable[str]) -> str:
    """A pattern for one of ``words``, the longest that fits; spaces may be missing."""
    ordered = sorted(words, key=lambda word: (-len(word), word))
    return (
        "(?:"
        + "|".join(regex.escape(word, literal_spaces=True).replace(" ", "[ ]?") for word in ordered)
        + ")"
    )


def _parts(word: str) -> list[str]:
    word = word.lower().replace("’", "'")
    for ending in ("'s", "s'"):
        word = word.removesuffix(ending)
    return word.split("-") if "-" in word else [word.replace("'", "")]


@cache
def load_vocabulary() -> Vocabulary:
    """philter-lite's lists (US first and last names, words that are safe to keep) and ours.

    Its file is read without its code, which would load a tagger.

    Raises:
        MissingExtraError: philter-lite is not installed.
    """
    found = importlib.util.find_spec("philter_lite")
    if found is None or found.origin is None:
        raise MissingExtraError("philter-lite, which carries lists of names,", "clinical")
    path = Path(found.origin).parent / "filters" / "set.toml"
    names = tomllib.loads(path.read_text(encoding="utf-8"))
    return Vocabulary(
        frozenset(names["firstnames"]),
        frozenset(names["lastnames"]),
        frozenset(names["nonames"]),
        yaml.safe_load(_LISTS.read_text(encoding="utf-8")),
    )
