"""Questions in the layouts of SQuAD, emrQA and the Hub, and answers that are misplaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_core.data.tuning.questions import Answer, SpanQuestion, read_questions
from megatron_core.errors import CorpusError

CONTEXT = "Étienne takes aspirin."
TAKES = {"text": "aspirin", "answer_start": 14}
EXPECTED = (
    SpanQuestion("q1", "What?", CONTEXT, (Answer("aspirin", 14),), "note 1"),
    SpanQuestion("q2", "Why?", CONTEXT, (), "note 1"),
)


def squad(folder: Path, context: Any = CONTEXT, answer: Any = TAKES) -> Path:
    asked = [
        {"id": "q1", "question": "What?", "answers": [answer]},
        {"id": "q2", "question": "Why?", "answers": [answer], "is_impossible": True},
    ]
    value = {"data": [{"title": "note 1", "paragraphs": [{"context": context, "qas": asked}]}]}
    (folder / "a.json").write_text(json.dumps(value))
    return folder / "a.json"


def test_squad(tmp_path: Path) -> None:
    read = read_questions(squad(tmp_path))
    assert read.items == EXPECTED
    assert read.counts == {"unanswerable": 1}
    # emrQA's contexts may be lists of lines.
    assert read_questions(squad(tmp_path, ["Étienne takes ", "aspirin."])).items == EXPECTED


def test_json_lines(tmp_path: Path) -> None:
    records = [
        {"id": "q1", "question": "What?", "context": CONTEXT, "who": "note 1",
         "answers": {"text": ["aspirin"], "answer_start": [14]}},
        {"id": "q2", "question": "Why?", "context": CONTEXT, "who": "note 1", "answers": []},
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    read = read_questions(tmp_path / "a.jsonl", group="who", id="id")
    assert read.items == EXPECTED
    assert [one.id for one in read_questions(tmp_path / "a.jsonl").items] == [
        "a.jsonl:1", "a.jsonl:2"
    ]  # fmt: skip


def test_a_misplaced_answer_is_an_error_or_left_out(tmp_path: Path) -> None:
    path = squad(tmp_path, answer={**TAKES, "answer_start": 15})
    problem = (
        r"data 1, paragraph 1, question 1: the answer 'aspirin' is not at character 15 .*spiri"
    )
    with pytest.raises(CorpusError, match=problem):
        read_questions(path)
    read = read_questions(path, strict=False)
    assert [one.id for one in read.items] == ["q2"]
    assert read.counts == {"misplaced_left_out": 1, "unanswerable": 1}
    before = squad(tmp_path, answer={"text": "Étienne", "answer_start": -1})
    assert read_questions(before, strict=False).counts["misplaced_left_out"] == 1


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, "no list `data`"),
        ({"data": [{}]}, "data 1: no list `paragraphs`"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "data 1, paragraph 1: no `context`"),
        ({"data": []}, "has no question"),
    ],
)
def test_names_what_is_wrong(tmp_path: Path, value: Any, problem: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    with pytest.raises(CorpusError, match=problem):
        read_questions(tmp_path / "a.json")
    with pytest.raises(CorpusError, match="an answer needs `text` and a whole `answer_start`"):
        read_questions(squad(tmp_path, answer={"text": "aspirin"}))
