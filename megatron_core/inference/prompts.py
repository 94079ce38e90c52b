"""Prompts from a file, continuations to a file, and to a terminal as they come."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megatron_core.errors import ReforgeError
from megatron_core.files import write_text
from megatron_core.inference.generation import Continuation


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """The prompts in ``path``: objects with a ``prompt`` in a ``.jsonl``, else a line each.

    In JSON lines a prompt may also be a string of its own; empty lines of either are passed over.

    Raises:
        ReforgeError: the file cannot be read, has no prompt, or a line is none, by number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ReforgeError(f"{path} cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _parse(line, f"{path}:{number}") if path.suffix == ".jsonl" else {"prompt": line}
        found.append(row)
    if not found:
        raise ReforgeError(f"{path} holds no prompt")
    return found


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ReforgeError(f"{where}: not JSON: {error}") from error
    row = {"prompt": row} if isinstance(row, str) else row
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise ReforgeError(f'{where}: must be {{"prompt": "…"}} or a string')
    return row


def write_continuations(
    path: Path, rows: Sequence[dict[str, Any]], continuations: Sequence[Continuation]
) -> None:
    """A JSON line for each prompt: its own fields, ``text``, ``tokens`` and ``ending``."""
    lines = [
        {**row, "text": one.text, "tokens": len(one.tokens), "ending": one.ending}
        for row, one in zip(rows, continuations, strict=True)
    ]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


class Stream:
    """Pieces of several continuations, written one continuation after the other."""

    def __init__(self, prompts: Sequence[str], write: Callable[[str], None]) -> None:
        self._prompts, self._write = prompts, write
        self._waiting: list[list[str | None]] = [[] for _ in prompts]
        self._current = 0
        self._begun = False

    def __call__(self, number: int, piece: str | None) -> None:
        """A piece of the continuation of prompt ``number``; None after the last."""
        self._waiting[number].append(piece)
        while self._current < len(self._prompts):
            if not self._begun:
                self._begun = True
                self._write(("\n" if self._current else "") + self._prompts[self._current])
            pieces = self._waiting[self._current]
            while pieces and pieces[0] is not None:
                self._write(pieces.pop(0) or "")
            if not pieces:
                return
            self._write("\n")
            self._current, self._begun = self._current + 1, False
