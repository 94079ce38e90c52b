"""Texts, and pairs of texts, with a class or a score: classification, NLI, similarity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_core.data.tuning.reading import Items, Names, Row, read_rows
from megatron_core.errors import CorpusError


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text or a pair of texts.

    Attributes:
        id: Of the example.
        text: The text, or the first of the pair.
        second: The other of the pair.
        label: Its class.
        score: Its number, for regression.
        group: What it belongs with, such as a patient.
    """

    id: str
    text: str
    second: str | None = None
    label: str | None = None
    score: float | None = None
    group: str | None = None


def read_texts(
    path: Path,
    *,
    text: Names,
    second: Names | None = None,
    label: str | None = None,
    score: str | None = None,
    group: str | None = None,
    id: str | None = None,
    skip: Sequence[str] = (),
) -> Items[LabelledText]:
    """The labelled texts of a JSONL, JSON, CSV or TSV file.

    Fields are named as :meth:`Row.text` takes them.

    Args:
        path: The file.
        text: Field of the text.
        second: Of the other text of a pair.
        label: Of the class.
        score: Of the number.
        group: Of what the example belongs with.
        id: Of the example's name; by default the record's key, else file and line.
        skip: Labels whose examples are left out, such as SNLI's ``-``.

    Raises:
        CorpusError: the file cannot be read, a field is missing, a text or label is empty, a
            score is no finite number, or an id comes twice.
    """
    found, skipped = [], 0
    for row in read_rows(path):
        if label is not None and row.optional(label) in skip:
            skipped += 1
            continue
        found.append(
            LabelledText(
                id=row.id if id is None else _present(row, id),
                text=_present(row, text),
                second=None if second is None else _present(row, second),
                label=None if label is None else _present(row, label),
                score=None if score is None else _finite(row, score),
                group=row.optional(group),
            )
        )
    if not found:
        raise CorpusError(f"{path}: every record has a label to skip ({', '.join(skip)})")
    check_ids(path, [one.id for one in found])
    return Items(tuple(found), {"skipped": skipped} if skip else {})


def class_names(labels: Iterable[str | None], where: str) -> tuple[str, ...]:
    """The classes of a training set, in the order of their names.

    Raises:
        CorpusError: fewer than two, or an example without one.
    """
    counted = Counter(labels)
    if None in counted:
        raise CorpusError(f"{where}: {counted[None]} examples have no label: name its field")
    names = sorted(name for name in counted if name is not None)
    if len(names) < 2:
        raise CorpusError(
            f"{where} has {'only the class ' + repr(names[0]) if names else 'no classes'}: "
            "at least two are needed"
        )
    return tuple(names)


def check_known(labels: Iterable[str | None], classes: Sequence[str], where: str) -> None:
    """Whether examples are of known classes.

    Raises:
        CorpusError: names the classes that are unknown.
    """
    unknown = sorted(map(repr, set(labels) - set(classes)))
    if unknown:
        raise CorpusError(
            f"{where} has the label {', '.join(unknown)}; allowed are {', '.join(classes)}"
        )


def check_labels(labels: Iterable[str | None], classes: Sequence[str], where: str) -> None:
    """Whether examples are of known classes, and each class has some.

    Raises:
        CorpusError: names the classes that are unknown or have no example.
    """
    found = set(labels)
    check_known(found, classes, where)
    if missing := [name for name in classes if name not in found]:
        raise CorpusError(
            f"{where} has no example of {', '.join(missing)}, of {', '.join(classes)}"
        )


def check_ids(path: Path, ids: Sequence[str]) -> None:
    """Whether ids name one example each.

    Raises:
        CorpusError: names those that do not.
    """
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise CorpusError(f"{path}: the id {twice[0]!r} comes more than once")


def _present(row: Row, names: Names) -> str:
    text = row.text(names)
    if not text.strip():
        raise CorpusError(f"{row.place}: field {names!r} is empty")
    return text


def _finite(row: Row, name: str) -> float:
    number = row.number(name)
    if number - number != 0:  # infinite, or no number
        raise CorpusError(f"{row.place}: field {name!r} is {number}, not a finite number")
    return number
