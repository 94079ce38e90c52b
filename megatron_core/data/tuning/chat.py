"""Conversations as one text: by the tokenizer's own chat template, or a plain one.

The plain one needs no vocabulary of its own: ``System:``, ``User:`` and ``Assistant:`` before what
is said, a blank line between turns, and the tokenizer's end of document after the assistant's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.tokenizer.folder import read_config, read_roles, read_text
from megatron_core.data.tuning.instructions import ASSISTANT, Turn
from megatron_core.errors import CorpusError

TEMPLATE = "chat_template.jinja"

_Place = tuple[int, int]  # start and stop


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a conversation's text.

    Attributes:
        text: What stands there.
        trained: Whether the loss is on it: an assistant's turn with the token that ends it.
        content: Whether it is what somebody says, so that a control token in it is refused and
            it may be shortened.
    """

    text: str
    trained: bool = False
    content: bool = False


class ChatTemplate(Protocol):
    """How turns become text."""

    name: str

    def parts(self, turns: Sequence[Turn]) -> list[Part]:
        """The text of a conversation, in parts; put together they are all of it.

        Raises:
            CorpusError: it does not take such turns.
        """
        ...

    def prompt(self, turns: Sequence[Turn]) -> list[Part]:
        """The text after which the assistant speaks.

        Raises:
            CorpusError: it does not take such turns.
        """
        ...


class PlainTemplate:
    """That of this module; ``end`` is the tokenizer's end of document, spelled out."""

    name = "plain"

    def __init__(self, end: str) -> None:
        self._end = end

    def parts(self, turns: Sequence[Turn]) -> list[Part]:
        """As :class:`ChatTemplate` says."""
        found: list[Part] = []
        for number, turn in enumerate(turns):
            trained = turn.role == ASSISTANT
            gap = "\n\n" * (number > 0)
            found.append(Part(f"{gap}{turn.role.capitalize()}:"))
            # The space is the answer's: vocabularies of pieces have it with the word after it.
            found.append(Part(f" {turn.content}", trained, content=True))
            if trained:
                found.append(Part(self._end, trained))
        return found

    def prompt(self, turns: Sequence[Turn]) -> list[Part]:
        """As :class:`ChatTemplate` says."""
        return [*self.parts(turns), Part(f"\n\n{ASSISTANT.capitalize()}:")]


class JinjaTemplate:
    """A template as transformers has it, run in Jinja's sandbox; it sees no clock."""

    name = TEMPLATE

    def __init__(self, source: str, special: dict[str, str], place: str) -> None:
        """
        Args:
            source: The template.
            special: Names and texts of special tokens, such as ``eos_token``.
            place: Where it is from, for messages.

        Raises:
            CorpusError: it is no template.
        """
        self._place, self._special = place, special
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise CorpusError(f"{place} is no chat template ({error})") from error

    def parts(self, turns: Sequence[Turn]) -> list[Part]:
        """As :class:`ChatTemplate` says.

        An assistant's part is what its turn adds to the text after which it speaks, without white
        space at the end that follows its last token.
        """
        whole = self._render(turns)
        trained: list[_Place] = []
        for number, turn in enumerate(turns):
            if turn.role != ASSISTANT:
                continue
            before = self._render(turns[:number], speak=True)
            after = self._render(turns[: number + 1])
            if not (whole.startswith(after) and after.startswith(before)):
                raise CorpusError(
                    f"{self._place} writes earlier turns in another way once there are later ones, "
                    "so what the assistant says cannot be told: give conversations of one answer"
                )
            trained.append((len(before), max(len(before), len(after.rstrip()))))
        return _cut(whole, trained, self._contents(whole, turns))

    def prompt(self, turns: Sequence[Turn]) -> list[Part]:
        """As :class:`ChatTemplate` says."""
        text = self._render(turns, speak=True)
        return _cut(text, [], self._contents(text, turns, speak=True))

    def _contents(self, text: str, turns: Sequence[Turn], *, speak: bool = False) -> list[_Place]:
        """Where in ``text`` what is said stands, found by saying something unmistakable."""
        said = {f"\ue000{number}\ue001": turn for number, turn in enumerate(turns)}
        skeleton = self._render([Turn(turn.role, mark) for mark, turn in said.items()], speak=speak)
        for strip in (False, True):
            found: list[_Place] = []
            filled, pieces = "", re.split("(\ue000[0-9]+\ue001)", skeleton)
            for piece in pieces:
                start = len(filled)
                content = said[piece].content if piece in said else piece
                filled += content.strip() if strip and piece in said else content
                if piece in said:
                    found.append((start, len(filled)))
            if filled == text:
                return found
        raise CorpusError(
            f"{self._place} changes what is said beyond white space at its ends, so it cannot be "
            "found in the text"
        )

    def _render(self, turns: Sequence[Turn], *, speak: bool = False) -> str:
        messages: list[dict[str, Any]] = [
            {"role": turn.role, "content": turn.content} for turn in turns
        ]
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=speak, tools=None, documents=None,
                **self._special,
            )  # fmt: skip
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(turn.role for turn in turns)
            raise CorpusError(f"{self._place} does not take turns of {roles}: {error}") from error


def open_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """The chat template of a tokenizer's folder, or the plain one where it has none.

    Raises:
        CorpusError: it cannot be read.
    """
    config = read_config(folder)
    source = config.get("chat_template")
    place = folder / TEMPLATE
    if place.is_file():
        source = read_text(place)
    if source is None:
        return PlainTemplate(tokenizer.decode([tokenizer.end_of_document]))
    if not isinstance(source, str):
        raise CorpusError(f"{folder}: chat_template is no text: name one template, in {TEMPLATE}")
    special = {f"{role}_token": text for role, text in read_roles(config).items()}
    return JinjaTemplate(source, special, str(place if place.is_file() else folder))


def _cut(text: str, trained: Sequence[_Place], contents: Sequence[_Place]) -> list[Part]:
    """``text`` in parts that are each within or without every one of the places."""
    edges = sorted({0, len(text), *(edge for place in [*trained, *contents] for edge in place)})

    def within(start: int, places: Sequence[_Place]) -> bool:
        return any(place[0] <= start < place[1] for place in places)

    return [
        Part(text[start:stop], within(start, trained), within(start, contents))
        for start, stop in pairwise(edges)
    ]


def _refuse(message: str) -> None:
    raise TemplateError(message)
