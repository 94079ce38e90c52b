"""What the models are scored on: passages to predict and questions to answer.

Both come from held-out documents and are chosen by hashes of document ids, so that they depend
neither on the order of the documents nor on the state of a generator.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_core.config import EvaluateConfig
from megatron_core.data.documents import Document, write_lines
from megatron_core.errors import CorpusError

QUESTIONS = "definitions"


@dataclass(frozen=True)
class Passage:
    """The beginning of a held-out document, to be predicted."""

    id: str
    text: str


@dataclass(frozen=True)
class Question:
    """A prompt with answers to choose from, the ``answer``-th of which is right."""

    id: str
    prompt: str
    choices: list[str]
    answer: int


@dataclass(frozen=True)
class TaskSet:
    """Passages by source, in the order of the names, and questions, if any."""

    passages: dict[str, list[Passage]]
    questions: list[Question]


def make_tasks(heldout: Iterable[Document], config: EvaluateConfig) -> TaskSet:
    """Choose passages and questions from the held-out documents.

    Raises:
        CorpusError: there are no documents, or too few defined terms for one question.
    """
    documents = list(heldout)
    passages = choose_passages(documents, config)
    if config.question_source is None:
        return TaskSet(passages, [])
    defined = [document for document in documents if document.source == config.question_source]
    return TaskSet(passages, make_questions(defined, config))


def choose_passages(
    documents: Sequence[Document], config: EvaluateConfig
) -> dict[str, list[Passage]]:
    """At most ``documents_per_source`` passages of each source.

    Raises:
        CorpusError: no document has text.
    """
    passages: dict[str, list[Passage]] = {}
    for document in _shuffled(documents, f"{config.seed}:passage"):
        text = _cut(document.text, config.max_characters)
        chosen = passages.setdefault(document.source, [])
        if text and len(chosen) < config.documents_per_source:
            chosen.append(Passage(document.id, text))
    passages = {source: passages[source] for source in sorted(passages) if passages[source]}
    if not passages:
        raise CorpusError("no held-out document has text: raise decontaminate.heldout")
    return passages


def make_questions(documents: Sequence[Document], config: EvaluateConfig) -> list[Question]:
    """At most ``questions`` questions: a definition, and which of several terms it defines.

    The wrong answers are names of other documents. The prompt ends as the documents do before
    they give further names of a term.

    Raises:
        CorpusError: fewer terms with different names than ``choices``.
    """
    seed = config.seed
    asked = [d for d in documents if d.metadata.get("name") and d.metadata.get("definition")]
    names = {str(d.metadata["name"]).casefold(): str(d.metadata["name"]) for d in asked}
    if len(names) < config.choices:
        raise CorpusError(
            f"{len(names)} held-out terms of {config.question_source} have different names, too "
            f"few for evaluate.choices = {config.choices}: raise decontaminate.heldout"
        )
    questions = []
    for document in _shuffled(asked, f"{seed}:question")[: config.questions]:
        right = str(document.metadata["name"])
        others = sorted(
            (name for key, name in names.items() if key != right.casefold()),
            key=lambda name: _draw(f"{seed}:distractor:{document.id}:{name}"),
        )
        choices = sorted(
            [right, *others[: config.choices - 1]],
            key=lambda name: _draw(f"{seed}:place:{document.id}:{name}"),
        )
        definition = str(document.metadata["definition"]).rstrip(". ")
        questions.append(
            Question(document.id, f"{definition}. Also called:", choices, choices.index(right))
        )
    return questions


def write_tasks(tasks: TaskSet, folder: Path) -> None:
    """Write a file per source and one of questions, a JSON line each."""
    folder.mkdir(parents=True, exist_ok=True)
    for source, passages in tasks.passages.items():
        write_lines(folder / f"{task_name(source)}.jsonl", map(asdict, passages))
    if tasks.questions:
        write_lines(folder / f"{QUESTIONS}.jsonl", map(asdict, tasks.questions))


def task_name(source: str) -> str:
    """The name of the perplexity task of a source."""
    return f"perplexity_{source}"


def _cut(text: str, characters: int) -> str:
    """The first ``characters`` of ``text``, without a word cut in two."""
    head = text[:characters]
    if len(text) <= characters or text[characters].isspace():
        return head
    return re.sub(r"\s+\S*\Z", "", head) or head


def _shuffled(documents: Sequence[Document], seed: str) -> list[Document]:
    return sorted(documents, key=lambda document: _draw(f"{seed}:{document.id}"))


def _draw(counter: str) -> bytes:
    return hashlib.sha256(counter.encode()).digest()
