"""Pairs of answers of which one is better."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_core.data.tuning.instructions import (
    ASSISTANT,
    USER,
    Turn,
    check_order,
    read_turns,
)
from megatron_core.data.tuning.reading import Items, Row, read_rows
from megatron_core.data.tuning.texts import check_ids
from megatron_core.errors import CorpusError


@dataclass(frozen=True, slots=True)
class Preference:
    """What was said so far, the better answer to it and the worse one.

    Attributes:
        id: Of the pair.
        prompt: The turns before; the last is the user's.
        chosen: The better answer.
        rejected: The worse one.
        group: What it belongs with.
    """

    id: str
    prompt: tuple[Turn, ...]
    chosen: str
    rejected: str
    group: str | None = None


def read_preferences(
    path: Path,
    *,
    prompt: str | None = "prompt",
    chosen: str = "chosen",
    rejected: str = "rejected",
    group: str | None = None,
    id: str | None = None,
) -> Items[Preference]:
    """The pairs of a file; each field is a text, or a list of messages.

    Messages of ``chosen`` and ``rejected`` may repeat the prompt; with ``prompt=None`` they must.
    Pairs of equal answers are left out and counted as ``equal_left_out``.

    Raises:
        CorpusError: what cannot be read, with file and line; answers that are not one turn to the
            same prompt; nothing is left.
    """
    found, equal = [], 0
    for row in read_rows(path):
        said = _prompt(row, prompt)
        before, better = _answer(row, chosen, said)
        other, worse = _answer(row, rejected, said)
        if before != other:
            raise CorpusError(f"{row.place}: {chosen!r} and {rejected!r} answer other prompts")
        check_order(row.place, before)
        if before[-1].role != USER:
            raise CorpusError(f"{row.place}: the prompt does not end with the {USER}'s turn")
        if better == worse:
            equal += 1
            continue
        named = row.id if id is None else row.text(id)
        found.append(Preference(named, before, better, worse, row.optional(group)))
    if not found:
        raise CorpusError(f"{path}: both answers are equal in all records")
    check_ids(path, [one.id for one in found])
    return Items(tuple(found), {"equal_left_out": equal} if equal else {})


def _prompt(row: Row, name: str | None) -> tuple[Turn, ...]:
    if name is None:
        return ()
    if isinstance(row.value(name), list):
        return read_turns(row, name)
    return (Turn(USER, row.text(name)),)


def _answer(row: Row, name: str, prompt: tuple[Turn, ...]) -> tuple[tuple[Turn, ...], str]:
    """The turns before the answer, and the answer."""
    value = row.value(name)
    if isinstance(value, str):
        if not prompt:
            raise CorpusError(f"{row.place}: field {name!r} is a text, and no prompt is named")
        return prompt, _present(row, name, value)
    if isinstance(value, list) and len(value) == 1 and prompt:
        answer = value[0]
        if isinstance(answer, dict) and answer.get("role") == ASSISTANT:
            return prompt, _present(row, name, answer.get("content"))
    turns = read_turns(row, name)
    if turns[-1].role != ASSISTANT or (prompt and turns[:-1] != prompt):
        raise CorpusError(
            f"{row.place}: field {name!r} must be the prompt's turns and one of the {ASSISTANT}"
        )
    return turns[:-1], _present(row, name, turns[-1].content)


def _present(row: Row, name: str, text: object) -> str:
    if not isinstance(text, str) or not text.strip():
        raise CorpusError(f"{row.place}: the answer in {name!r} is empty")
    return text
