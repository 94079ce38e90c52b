"""Questions answered by a span of a text: SQuAD's layout, which emrQA has too, and JSON lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_core.data.tuning.reading import Items, format_of, load_json, read_rows, read_text
from megatron_core.data.tuning.texts import check_ids
from megatron_core.errors import CorpusError


@dataclass(frozen=True, slots=True)
class Answer:
    """A span of the context: ``text`` from character ``start``."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class SpanQuestion:
    """A question about a text; without ``answers`` the text does not say.

    Attributes:
        id: Of the question.
        question: What is asked.
        context: The text with the answer.
        answers: Right ones, all of them spans of the context.
        group: What the context belongs with.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    group: str | None = None


def read_questions(
    path: Path, *, group: str | None = None, id: str | None = None, strict: bool = True
) -> Items[SpanQuestion]:
    """The questions of a file.

    ``.json`` is SQuAD's: ``data`` of ``paragraphs`` of ``context`` and ``qas``. JSON lines have
    ``context``, ``question`` and ``answers``: a list of ``{text, answer_start}``, or ``{text:
    [...], answer_start: [...]}`` as the Hub has SQuAD. No answers, or ``is_impossible``, is a
    question that the context does not answer.

    Args:
        path: The file.
        group: Field of JSON lines; SQuAD's layout has the document's ``title``.
        id: Field of JSON lines; by default the file and line.
        strict: Whether an answer that is not in the context where it should be is an error. Else
            its question is left out and counted as ``misplaced_left_out``.

    Raises:
        CorpusError: the file cannot be read or is of another layout, an answer is misplaced, an
            id comes twice, or no question is left; names the place.
    """
    if format_of(path) == ".json":
        raw = list(_squad(path))
    else:
        raw = [
            (
                row.place, row.id if id is None else row.text(id), row.values,
                row.text("context"), row.optional(group),
            )
            for row in read_rows(path)
        ]  # fmt: skip
    counts: Counter[str] = Counter()
    found = []
    for place, name, values, context, owner in raw:
        question, answers = values.get("question"), _answers(place, values)
        if not isinstance(question, str) or not question.strip():
            raise CorpusError(f"{place}: no `question`")
        wrong = [a for a in answers if not _is_in(context, a)]
        if wrong and strict:
            raise CorpusError(
                f"{place}: the answer {wrong[0].text!r} is not at character {wrong[0].start} of "
                f"the context, which has {_at(context, wrong[0])!r} there"
            )
        counts["misplaced_left_out"] += bool(wrong)
        if not wrong:
            found.append(SpanQuestion(name, question, context, answers, owner))
            counts["unanswerable"] += not answers
    if not found:
        raise CorpusError(f"{path} has no question whose answer is where it should be")
    check_ids(path, [one.id for one in found])
    return Items(tuple(found), dict(sorted((+counts).items())))


_Raw = tuple[str, str, Mapping[str, Any], str, str | None]


def _squad(path: Path) -> Iterator[_Raw]:
    value = load_json(read_text(path), str(path))
    for n, document in enumerate(_list(str(path), value, "data"), start=1):
        title = document.get("title") if isinstance(document, dict) else None
        group = title if isinstance(title, str) else f"document {n}"
        where = f"{path}: data {n}"
        for m, paragraph in enumerate(_list(where, document, "paragraphs"), start=1):
            place = f"{where}, paragraph {m}"
            context = paragraph.get("context") if isinstance(paragraph, dict) else None
            if isinstance(context, list) and all(isinstance(x, str) for x in context):
                context = "".join(context)  # emrQA's lines, their ends included
            if not isinstance(context, str):
                raise CorpusError(f"{place}: no `context`")
            for k, asked in enumerate(_list(place, paragraph, "qas"), start=1):
                if not isinstance(asked, dict):
                    raise CorpusError(f"{place}, question {k}: no object")
                id = str(asked.get("id", f"{n}/{m}/{k}"))
                yield f"{place}, question {k}", id, asked, context, group


def _list(place: str, value: Any, name: str) -> list[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise CorpusError(f"{place}: no list `{name}`, as SQuAD's layout has it")
    return found


def _answers(place: str, values: Mapping[str, Any]) -> tuple[Answer, ...]:
    found = values.get("answers")
    if values.get("is_impossible") is True or found is None:
        return ()
    if isinstance(found, dict):
        texts, starts = found.get("text"), found.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise CorpusError(f"{place}: `answers` needs lists `text` and `answer_start`, as long")
        found = [
            {"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)
        ]
    if not isinstance(found, list):
        raise CorpusError(f"{place}: `answers` is neither a list nor an object of lists")
    answers = []
    for one in found:
        text = one.get("text") if isinstance(one, dict) else None
        start = one.get("answer_start") if isinstance(one, dict) else None
        if not isinstance(text, str) or not text or type(start) is not int:
            raise CorpusError(f"{place}: an answer needs `text` and a whole `answer_start`")
        answers.append(Answer(text, start))
    return tuple(answers)


def _is_in(context: str, answer: Answer) -> bool:
    return answer.start >= 0 and _at(context, answer) == answer.text


def _at(context: str, answer: Answer) -> str:
    return context[max(answer.start, 0) : max(answer.start, 0) + len(answer.text)]
