"""The choice of passages and questions."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.config import EvaluateConfig
from megatron_core.data.documents import Document
from megatron_core.errors import CorpusError
from megatron_core.evaluation.tasks import (
    TaskSet,
    choose_passages,
    make_questions,
    make_tasks,
    write_tasks,
)
from tests.models import documents

CONFIG = EvaluateConfig(documents_per_source=5, questions=12, question_source="hpo")


def corpus() -> list[Document]:
    return [*documents("hpo", range(40)), *documents("notes", range(3)), Document("empty", 0, "")]


def test_the_order_of_documents_does_not_matter() -> None:
    shuffled = corpus()
    random.Random(3).shuffle(shuffled)
    assert make_tasks(shuffled, CONFIG) == make_tasks(corpus(), CONFIG)


def test_another_seed_is_another_choice() -> None:
    other = make_tasks(corpus(), CONFIG.model_copy(update={"seed": 2}))
    assert other.passages["hpo"] != make_tasks(corpus(), CONFIG).passages["hpo"]
    assert other.questions != make_tasks(corpus(), CONFIG).questions


def test_passages_are_beginnings_of_documents() -> None:
    texts = {document.id: document.text for document in corpus()}
    chosen = choose_passages(corpus(), CONFIG)
    assert {source: len(passages) for source, passages in chosen.items()} == {"hpo": 5, "notes": 3}
    for source, passages in chosen.items():
        assert all(p.id.startswith(f"{source}/") and p.text == texts[p.id] for p in passages)


@given(
    words=st.lists(st.text("abc", min_size=1, max_size=12), min_size=10, max_size=80),
    separator=st.sampled_from([" ", "\n", "  "]),
)
def test_a_long_text_is_cut_after_a_whole_word(words: list[str], separator: str) -> None:
    text = separator.join(words)
    config = EvaluateConfig(max_characters=100)
    (passage,) = choose_passages([Document("notes", 0, text)], config)["notes"]
    kept = passage.text
    assert text.startswith(kept)
    assert len(kept) <= 100
    assert kept.split() == words[: len(kept.split())]
    # The next word would not have fitted.
    assert kept == text or len(separator.join(words[: len(kept.split()) + 1])) > 100


def test_a_word_without_end_is_cut_all_the_same() -> None:
    (passage,) = choose_passages(
        [Document("notes", 0, "a" * 500)], EvaluateConfig(max_characters=100)
    )["notes"]
    assert passage.text == "a" * 100


def test_each_question_has_one_right_answer_among_different_ones() -> None:
    terms = documents("hpo", range(40))
    names = {document.id: document.metadata["name"] for document in terms}
    questions = make_questions(terms, CONFIG)
    assert len(questions) == 12
    for question in questions:
        assert question.choices[question.answer] == names[question.id]
        assert len({choice.casefold() for choice in question.choices}) == 4
        assert set(question.choices) <= set(names.values())
        definition = next(d.text for d in terms if d.id == question.id)
        assert question.prompt == definition.rstrip(".") + ". Also called:"


def test_the_right_answer_has_no_favourite_place() -> None:
    many = EvaluateConfig(questions=400)
    questions = make_questions(documents("hpo", range(400)), many)
    places = Counter(question.answer for question in questions)
    assert all(70 <= places[place] <= 130 for place in range(4))
    distractors = Counter(c for q in questions for i, c in enumerate(q.choices) if i != q.answer)
    assert len(distractors) > 300


def test_terms_that_share_a_name_are_no_distractors_of_each_other() -> None:
    same = [Document("hpo", row, "", {"name": name, "definition": f"D{row}."})
            for row, name in enumerate(["Cough", "cough", "COUGH", "Fever"])]  # fmt: skip
    for question in make_questions(same, EvaluateConfig(choices=2)):
        assert {choice.casefold() for choice in question.choices} == {"cough", "fever"}
    with pytest.raises(CorpusError, match=r"2 held-out terms .* raise decontaminate\.heldout"):
        make_questions(same, EvaluateConfig(choices=3))


def test_without_a_source_of_questions_none_are_asked(tmp_path: Path) -> None:
    tasks = make_tasks(corpus(), CONFIG.model_copy(update={"question_source": None}))
    assert tasks.questions == []
    assert tasks.passages == make_tasks(corpus(), CONFIG).passages
    write_tasks(tasks, tmp_path)
    assert not (tmp_path / "definitions.jsonl").exists()


def test_no_text_is_an_error() -> None:
    with pytest.raises(CorpusError, match="no held-out document has text"):
        choose_passages([Document("notes", 0, "")], CONFIG)


def test_the_files_hold_the_tasks(tmp_path: Path) -> None:
    tasks = make_tasks(corpus(), CONFIG)
    assert isinstance(tasks, TaskSet)
    write_tasks(tasks, tmp_path)
    lines = {p.name: p.read_text().splitlines() for p in tmp_path.iterdir()}
    assert set(lines) == {"perplexity_hpo.jsonl", "perplexity_notes.jsonl", "definitions.jsonl"}
    first = json.loads(lines["perplexity_hpo.jsonl"][0])
    assert first == {"id": tasks.passages["hpo"][0].id, "text": tasks.passages["hpo"][0].text}
    assert [json.loads(line)["answer"] for line in lines["definitions.jsonl"]] == [
        question.answer for question in tasks.questions
    ]
