"""Normalization as properties."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from megatron_core.data.curation import normalize

SPACED = st.text(st.sampled_from("ab \t\n\r\x0b\x00\x85\xa0\u2028\u0301é\ufeff"))


@given(SPACED)
def test_normalized_texts_are_normal(text: str) -> None:
    normal = normalize(text)
    assert normalize(normal) == normal
    assert unicodedata.is_normalized("NFC", normal)
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in normal)
    assert "\n\n\n" not in normal and normal == normal.strip()
    for line in normal.split("\n"):
        assert line == line.rstrip() and "  " not in line.lstrip()
    # Nothing but spaces and controls is lost; a mark after a control joins the letter before it.
    kept = unicodedata.normalize("NFC", text.replace("\x00", "").replace("\ufeff", ""))
    assert [c for c in normal if not c.isspace()] == [c for c in kept if not c.isspace()]


def test_normalizing_keeps_indentation_and_joiners() -> None:
    assert normalize("def f():\r\n    return  1\t \r\n\r\n\r\nx") == "def f():\n    return 1\n\nx"
    assert normalize("می\u200cخواهم") == "می\u200cخواهم"
