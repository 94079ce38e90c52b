"""The layout of i2b2 2010, on files made up for the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_core.data.tuning.entities import read_sentences
from megatron_core.data.tuning.relations import read_pairs
from megatron_core.data.tuning.tags import mentions
from megatron_core.errors import CorpusError

TEXT = "Admission\nGave  the Flagyl for a mild infection .\nNo fever .\n"
CONCEPTS = (
    'c="the flagyl" 2:1 2:2||t="treatment"\nc="a mild infection" 2:4 2:6||t="problem"\n'
    'c="fever" 3:1 3:1||t="problem"\n'
)
RELATION = 'c="the flagyl" 2:1 2:2||r="TrAP"||c="a mild infection" 2:4 2:6\n'


def write(folder: Path, concepts: str = CONCEPTS, relations: str | None = RELATION) -> Path:
    for name, suffix, content in (
        ("txt", "txt", TEXT), ("concept", "con", concepts), ("rel", "rel", relations)
    ):  # fmt: skip
        (folder / name).mkdir()
        if content is not None:
            (folder / name / f"note.{suffix}").write_text(content)
    return folder


def test_entities(tmp_path: Path) -> None:
    (one,) = read_sentences(write(tmp_path)).items
    found = [
        (m.type, one.text[one.words[m.first].start : one.words[m.stop - 1].stop])
        for m in mentions(one.tags)
    ]
    assert found == [
        ("treatment", "the Flagyl"), ("problem", "a mild infection"), ("problem", "fever")
    ]  # fmt: skip


def test_relations(tmp_path: Path) -> None:
    read = read_pairs(write(tmp_path))
    assert read.counts == {"related": 1, "unrelated": 1}
    assert read.items[0].label == "TrAP"
    assert read.items[0].text == (
        "Gave  @ * treatment * the Flagyl @ for # ^ problem ^ a mild infection # ."
    )


@pytest.mark.parametrize(
    ("concepts", "relations", "problem"),
    [
        ("what", None, r"note.con:1: 'what' is not `c=.text. 1:0 1:2\|\|t=.type.`"),
        ('c="fever" 3:2 3:2||t="x"', None, r"note.con:1: says 'fever', and the text has '\.'"),
        ('c="fever" 9:2 9:2||t="x"', None, r"note.con:1: the text has no words 9:2 to 9:2"),
        (CONCEPTS, RELATION.replace("4 2:6", "x"), r"note.rel:1: .* is not"),
        (CONCEPTS.replace("the f", "f").replace("2:1 ", "2:2 "), RELATION,
         r"note.rel:1: no concept 'the Flagyl' is in concept/note.con"),
    ],
)  # fmt: skip
def test_names_what_is_wrong(
    tmp_path: Path, concepts: str, relations: str | None, problem: str
) -> None:
    with pytest.raises(CorpusError, match=problem):
        read_pairs(write(tmp_path, concepts, relations))


def test_a_text_without_concepts(tmp_path: Path) -> None:
    (write(tmp_path) / "concept/note.con").unlink()
    with pytest.raises(CorpusError, match=r"note.con does not exist"):
        read_sentences(tmp_path)
