"""The documentation's table of backends is the registry's."""

from __future__ import annotations

from pathlib import Path

from kernels import registry

DOCS = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_the_table_of_backends_is_the_registrys() -> None:
    told = {}
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 and cells[0].strip("`") in registry.OPERATIONS:
            told[cells[0].strip("`")] = cells[1]
    assert told == {
        name: ", ".join(f"`{backend}`" for backend in registry.backends(name)[1:]) or "none"
        for name in registry.OPERATIONS
    }
