"""One form for texts that say the same."""

from __future__ import annotations

import re
import unicodedata

_NEWLINES = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Controls, the byte order mark and non-characters; joiners and direction marks belong to words.
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_INNER_SPACE = re.compile(r"(?<=\S)[^\S\n]+")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n){2,}")


def normalize(text: str) -> str:
    """``text`` in Unicode's NFC, without control characters, with one kind of newline, single
    spaces inside lines and no more than one blank line in a row; indentation stays."""
    text = unicodedata.normalize("NFC", _CONTROLS.sub("", _NEWLINES.sub("\n", text)))
    lines = (line.rstrip() for line in _INNER_SPACE.sub(" ", text).split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()
