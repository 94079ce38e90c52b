"""Results as Markdown tables, each with the command that made it and where."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import torch

from megatron_core.files import write_text
from megatron_core.identity import Environment

RESULTS = Path(__file__).parent / "results"


def read_rows(name: str) -> list[list[str]]:
    """The rows of ``results/<name>.md``; none where there is no such table."""
    path = RESULTS / f"{name}.md"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return rows[2:]


def write_table(
    name: str, command: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""
) -> None:
    """Print the table and keep it as ``results/<name>.md``."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    machine = Environment.current()
    where = f"{machine.gpu or machine.cpu}, torch {torch.__version__}"
    text = "\n".join(
        [
            f"`{command}`, {datetime.date.today()}, {where}",
            *(["", note] if note else []),
            "",
            *lines,
            "",
        ]
    )
    print(text)
    write_text(RESULTS / f"{name}.md", text)
