"""Conversations to learn answers from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_core.data.tuning.reading import Items, Names, Row, read_rows
from megatron_core.data.tuning.texts import check_ids
from megatron_core.errors import CorpusError

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says; ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns with at least one of the assistant's; ``group`` is what it belongs with."""

    id: str
    turns: tuple[Turn, ...]
    group: str | None = None


def read_conversations(
    path: Path, *, messages: str = "messages", group: str | None = None, id: str | None = None
) -> Items[Conversation]:
    """Those of a file whose field ``messages`` lists objects with ``role`` and ``content``.

    Raises:
        CorpusError: what cannot be read, with file and line; turns that are no conversation.
    """
    found = []
    for row in read_rows(path):
        turns = read_turns(row, messages)
        if not any(turn.role == ASSISTANT for turn in turns):
            raise CorpusError(f"{row.place}: no turn of the {ASSISTANT}, so nothing to learn")
        found.append(_conversation(row, turns, group, id))
    check_ids(path, [one.id for one in found])
    return Items(tuple(found), {})


def read_prompts(
    path: Path,
    *,
    prompt: Names,
    response: Names,
    system: Names | None = None,
    group: str | None = None,
    id: str | None = None,
) -> Items[Conversation]:
    """Those of a file with a field for what is asked and one for the answer.

    A name with braces is a form to fill in: ``prompt="Summarize:\\n\\n{dialogue}"``. Records
    without an answer are left out and counted as ``empty_left_out``.

    Raises:
        CorpusError: what cannot be read, with file and line; no record has an answer.
    """
    found, empty = [], 0
    for row in read_rows(path):
        answer = row.optional(response)
        if answer is None or not answer.strip():
            empty += 1
            continue
        turns = [Turn(USER, row.text(prompt)), Turn(ASSISTANT, answer)]
        if system is not None and (said := row.optional(system)):
            turns.insert(0, Turn(SYSTEM, said))
        found.append(_conversation(row, tuple(turns), group, id))
    if not found:
        raise CorpusError(f"{path}: field {response!r} is empty in all records")
    check_ids(path, [one.id for one in found])
    return Items(tuple(found), {"empty_left_out": empty} if empty else {})


def read_turns(row: Row, name: str) -> tuple[Turn, ...]:
    """The messages in a field; system's come first, then user and assistant take turns.

    Raises:
        CorpusError: they are none.
    """
    value = row.value(name)
    if not isinstance(value, list):
        raise CorpusError(f"{row.place}: field {name!r} is no list of messages")
    turns = tuple(_turn(row, name, one) for one in value)
    check_order(row.place, turns)
    return turns


def check_order(place: str, turns: Sequence[Turn]) -> None:
    """Whether at most one system turn comes first, and user and assistant take turns from then.

    Raises:
        CorpusError: they do not.
    """
    said = [turn.role for turn in turns]
    spoken = said[1:] if said[:1] == [SYSTEM] else said
    expected = [(USER, ASSISTANT)[n % 2] for n in range(len(spoken))]
    if not spoken or spoken != expected:
        raise CorpusError(
            f"{place}: the roles are {', '.join(said) or 'none'}; allowed is one {SYSTEM} or none, "
            f"then {USER} and {ASSISTANT} in turn"
        )


def _turn(row: Row, name: str, value: Any) -> Turn:
    role = value.get("role") if isinstance(value, dict) else None
    content = value.get("content") if isinstance(value, dict) else None
    if role not in ROLES or not isinstance(content, str):
        raise CorpusError(
            f"{row.place}: a message in {name!r} needs `role` ({', '.join(ROLES)}) and `content`"
        )
    return Turn(str(role), content)


def _conversation(
    row: Row, turns: tuple[Turn, ...], group: str | None, id: str | None
) -> Conversation:
    return Conversation(row.id if id is None else row.text(id), turns, row.optional(group))
