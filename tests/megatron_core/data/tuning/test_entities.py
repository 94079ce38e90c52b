"""Entities: schemes of tags, columns, BRAT and JSON lines, and spans that tags cannot say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.data.tuning.annotations import AnnotationFields
from megatron_core.data.tuning.entities import read_sentences
from megatron_core.data.tuning.spans import Span, flat_mentions
from megatron_core.data.tuning.tags import Mention, mentions, tag_names, tags_of, to_iob2
from megatron_core.data.tuning.words import split_sentences, split_words
from megatron_core.errors import CorpusError


@st.composite
def flat(draw: st.DrawFn) -> tuple[int, list[Mention]]:
    """Entities one after the other, with or without a word between."""
    found, at = [], draw(st.integers(0, 2))
    for _ in range(draw(st.integers(0, 5))):
        stop = at + draw(st.integers(1, 3))
        found.append(Mention(draw(st.sampled_from(["A", "B-x"])), at, stop))
        at = stop + draw(st.integers(0, 2))
    return at, found


def iob1(count: int, found: list[Mention]) -> list[str]:
    """B only where an entity of the same type ends just before."""
    tags = ["O"] * count
    for before, one in zip([None, *found], found, strict=False):
        touches = before and before.stop == one.first and before.type == one.type
        tags[one.first : one.stop] = [f"I-{one.type}"] * (one.stop - one.first)
        if touches:
            tags[one.first] = f"B-{one.type}"
    return tags


def iobes(count: int, found: list[Mention], letters: str) -> list[str]:
    tags = ["O"] * count
    begin, inside, end, single = letters
    for kind, first, stop in found:
        size = stop - first
        parts = [single] if size == 1 else [begin, *inside * (size - 2), end]
        tags[first:stop] = [f"{part}-{kind}" for part in parts]
    return tags


@given(flat())
def test_every_scheme_says_the_same(one: tuple[int, list[Mention]]) -> None:
    count, found = one
    expected = tags_of(count, found)
    assert mentions(expected) == found
    assert to_iob2(expected) == expected
    assert to_iob2(iob1(count, found)) == expected
    assert to_iob2(iobes(count, found, "BIES")) == expected
    assert to_iob2(iobes(count, found, "BILU")) == expected


def test_an_inside_that_continues_nothing_is_of_no_entity_until_it_is_made_to_begin() -> None:
    tags = ["O", "I-A", "I-A", "B-A", "I-B"]
    assert mentions(tags) == [Mention("A", 3, 4)]
    assert to_iob2(tags) == ("O", "B-A", "I-A", "B-A", "B-B")
    assert tag_names([tags]) == ("O", "B-A", "I-A", "B-B", "I-B")


@given(st.text(alphabet="aZé漢\u0301 09\n.,-µ\u00a0🧬", max_size=40))
def test_words_leave_out_white_space_alone(text: str) -> None:
    words = split_words(text)
    assert all(text[start:stop] == word for word, start, stop in words)
    covered = {at for _, start, stop in words for at in range(start, stop)}
    assert len(covered) == sum(stop - start for _, start, stop in words)
    assert all(text[at].isspace() for at in set(range(len(text))) - covered)
    sentences = split_sentences(text)
    within = {at for start, stop in sentences for at in range(start, stop)}
    assert covered <= within
    assert sentences == sorted(sentences)


def test_words_and_sentences() -> None:
    text = "Gave 5mg/day (p.o.) of naïve e\u0301. No fever, vs. 38.5 before!\nΒ-cells ok"
    assert [word.text for word in split_words(text)][:13] == [
        "Gave", "5", "mg", "/", "day", "(", "p", ".", "o", ".", ")", "of", "naïve"
    ]  # fmt: skip
    assert [text[a:b] for a, b in split_sentences(text)] == [
        "Gave 5mg/day (p.o.) of naïve e\u0301.", "No fever, vs.", "38.5 before!", "Β-cells ok",
    ]  # fmt: skip


@pytest.mark.parametrize("separator", ["\t", " ", " POS "])
def test_columns(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "a.conll"
    lines = [
        "-DOCSTART- O",
        "",
        "Lung I-D",
        "cancer I-D",
        ". O",
        "",
        "",
        "-DOCSTART- O",
        "",
        "x S-D",
    ]
    path.write_bytes("\r\n".join(line.replace(" ", separator) for line in lines).encode())
    first, second = read_sentences(path).items
    assert [word.text for word in first.words] == ["Lung", "cancer", "."]
    assert [first.text[word.start : word.stop] for word in first.words] == ["Lung", "cancer", "."]
    assert first.tags == ("B-D", "I-D", "O")
    assert (first.id, first.group, second.group) == ("a.conll:3", "a.conll/1", "a.conll/2")
    assert second.tags == ("B-D",)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a\tO\nb\n", r"a.tsv:2: 'b' is not a word and a tag"),
        ("a\tX-D\n", r"a.tsv:1: .*the tag 'X-D' is none of O, B-TYPE"),
        ("a\tD\n", r"a.tsv:1: .*the tag 'D' is none of"),
        ("a\tO\n\nb\tO\n", "a.tsv has no entity in 2 sentences"),
        ("", "a.tsv has no entity in 0 sentences"),
    ],
)
def test_names_what_is_wrong_in_columns(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(CorpusError, match=problem):
        read_sentences(tmp_path / "a.tsv")


TEXT = "Ünder lung\ncancer stage 3A, mild renal and hepatic failure.\n\nNo breast cancer."
ANN = """T1\tDisease 6 17\tlung cancer
T2\tStage 18 25\tstage 3
T3\tDisease 33 38;51 58\trenal failure
T4\tDisease 6 10;11 17\tlung cancer
A1\tNegated T5
T5\tDisease 64 77\tbreast cancer
R1\thas Arg1:T1 Arg2:T2\t
#1\tAnnotatorNotes T1\tsure
"""


def brat(folder: Path, text: str = TEXT, ann: str = ANN) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "note.txt").write_bytes(text.encode())
    (folder / "note.ann").write_bytes(ann.encode())
    return folder


def test_brat(tmp_path: Path) -> None:
    read = read_sentences(brat(tmp_path / "a"))
    (one,) = read.items
    found = [
        (m.type, one.text[one.words[m.first].start : one.words[m.stop - 1].stop])
        for m in mentions(one.tags)
    ]
    assert found == [
        ("Disease", "lung\ncancer"), ("Stage", "stage 3"), ("Disease", "breast cancer")
    ]  # fmt: skip
    assert read.counts == {
        "discontinuous_left_out": 1, "joined": 1, "other_annotations": 2, "overlapping_left_out": 1
    }  # fmt: skip
    assert (one.id, one.group) == ("note", "note")


def test_offsets_count_the_characters_of_the_file(tmp_path: Path) -> None:
    """BRAT counts both characters of a Windows line end."""
    text, ann = "a\r\nlung", "T1\tD 3 7\tlung\n"
    assert mentions(read_sentences(brat(tmp_path / "a", text, ann)).items[0].tags)


@pytest.mark.parametrize(
    ("ann", "problem"),
    [
        ("T1\tDisease 6 16\tlung cancer\n", r"note.ann:1: says 'lung cancer', .* 'lung\\ncance'"),
        ("T1\tDisease 6 999\tlung\n", r"note.ann:1: offsets 6 999 are not within the text's 78"),
        ("\nT1 Disease 6 10 lung\n", r"note.ann:2: .* is not `T1<tab>Type start end"),
        ("T1\tD 6 10\tlung\nT1\tD 6 10\tlung\n", r"note.ann:2: the id T1 comes twice"),
        ("T1\tD 6 10\tlung\nR1\thas Arg1:T1 Arg2:T9\n", r"note.ann:2: relation with T9"),
        ("R1\thas T1 T9\n", r"note.ann:1: .* is not `R1<tab>Type Arg1:T1 Arg2:T2`"),
        ("what\n", r"note.ann:1: 'what' begins none of BRAT's annotations"),
    ],
)
def test_names_what_is_wrong_in_brat(tmp_path: Path, ann: str, problem: str) -> None:
    with pytest.raises(CorpusError, match=problem):
        read_sentences(brat(tmp_path / "a", ann=ann))


def test_brat_files_come_in_pairs(tmp_path: Path) -> None:
    folder = brat(tmp_path / "a")
    (folder / "note.ann").rename(folder / "other.ann")
    with pytest.raises(CorpusError, match=r"note.txt has no note.ann beside it"):
        read_sentences(folder)


def test_json_lines_say_the_same_as_brat(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    spans = [[6, 17, "Disease"], {"start": 18, "end": 25, "label": "Stage", "text": "stage 3"}]
    record = {
        "body": TEXT,
        "spans": [*spans, {"start": 64, "end": 77, "type": "Disease"}],
        "n": "x",
    }
    path.write_text(json.dumps(record))
    fields = AnnotationFields(text="body", entities="spans", id="n")
    (one,) = read_sentences(path, fields=fields).items
    (other,) = read_sentences(brat(tmp_path / "b")).items
    assert (one.words, one.tags, one.id) == (other.words, other.tags, "x")
    record["spans"] = [[6, 99, "Disease"]]
    path.write_text(json.dumps(record))
    with pytest.raises(CorpusError, match=r"a.jsonl:1: entity 1 has start 6 and end 99; allowed"):
        read_sentences(path, fields=fields)


def test_spans_that_tags_cannot_say() -> None:
    text = "abc def ghi"
    words = split_words(text)

    def flat_of(*places: tuple[int, int]) -> tuple[list[Mention], dict[str, int]]:
        spans = [Span(f"T{n}", "A", (place,)) for n, place in enumerate(places)]
        found, counts = flat_mentions(text, words, spans)
        return found, dict(counts)

    assert flat_of((1, 3)) == ([Mention("A", 0, 1)], {"widened": 1})
    longest = flat_of((4, 7), (0, 7), (4, 11))  # of the two longest the first
    assert longest == ([Mention("A", 0, 2)], {"overlapping_left_out": 2})
    assert flat_of((3, 4)) == ([], {"empty_left_out": 1})
