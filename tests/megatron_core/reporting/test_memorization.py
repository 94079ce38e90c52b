"""What is said of memory, and only when it was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_core.files import write_json
from megatron_core.reporting import Project, read_circumstances, read_results, render
from megatron_core.reporting.memorization import read_memorization
from tests import projects
from tests.megatron_core.reporting.test_page import Page


def group(copies: int, exposure: float) -> dict[str, Any]:
    return {
        "copies": copies, "canaries": 8, "exposure": exposure, "least": 0.25, "most": 9.97,
        "first": 0,
    }  # fmt: skip


def remembered(often: float, verbatim: int) -> dict[str, Any]:
    one = {"texts": 50, "longest": 31, "longest_words": 17, "longest_text": projects.HOSTILE}
    one |= {"median": 6.5, "runs": [31, 6]}
    again = one | {"verbatim": verbatim, "verbatim_share": verbatim / 50}
    return {
        "canaries": {
            "alternatives": 1000, "space": 10**9, "most": 9.97, "chance": 1.44, "each": [],
            "groups": [group(0, 1.3), group(1, 1.7), group(16, often)],
        },
        "overlaps": {
            "train_likeliest": again, "train_drawn": again, "heldout_likeliest": again,
            "free": one, "heldout_text": one,
        },
    }  # fmt: skip


def page(folder: Path, **changes: Any) -> Page:
    projects.write_project(folder)
    write_json(folder / "artifacts/evaluate/scores.json", projects.scores() | changes)
    project = Project(folder / "artifacts", folder / "metrics")
    return Page(render(read_results(project, "Ours"), read_circumstances(project)))


def test_what_was_measured_is_told(tmp_path: Path) -> None:
    found = {"pretrained": remembered(2.0, 0), "adapted": remembered(9.5, 2)}
    made = page(tmp_path, memorization=found)
    cells = " | ".join(made.texts["td"])
    assert "8 | 1.3 [0.2, 10.0] | 1.3 [0.2, 10.0]" in cells
    assert "8 | 2.0 [0.2, 10.0] | 9.5 [0.2, 10.0]" in cells
    assert "drawn | 50 | 6.5 | 31 | 17 | 2" in cells
    assert "for comparison | 50 | 6.5 | 31 | 17 | –" in cells
    assert "never planted" in made.texts["th"]
    for sentence in (
        "The pretrained model shows no sign of knowing the planted secrets.",
        "The adapted model knows secrets that stood 16 times in the training text.",
        "the adapted model repeats 4.0 % of the continuations to the last token.",
        "than 1,000 random ones",
        "no proof that nothing else is remembered",
    ):
        assert sentence in made.text, sentence


def test_without_canaries_no_secret_is_told(tmp_path: Path) -> None:
    found = {"pretrained": {**remembered(2.0, 0), "canaries": None}}
    text = page(tmp_path, memorization=found).text
    assert "Training text repeated" in text
    assert "Planted secrets" not in text


def test_nothing_is_said_of_what_was_not_measured(tmp_path: Path) -> None:
    assert read_memorization(projects.scores()) is None
    assert "What the models remember" not in page(tmp_path).text


@pytest.mark.parametrize("found", [True, False])
def test_spans_that_were_replaced_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    recipe = {**projects.RECIPES["curate"], "deidentify": {}}
    monkeypatch.setitem(projects.RECIPES, "curate", recipe)
    numbers = projects.metrics()
    if found:
        numbers["curate"]["sources"] = {
            "notes": {"documents": 45, "deidentified": {"DATE": 3, "NAME": 1200}},
            "books": {"documents": 50, "deidentified": {"DATE": 4}},
        }
    monkeypatch.setattr(projects, "metrics", lambda: numbers)
    made = page(tmp_path)
    cells = " | ".join(made.texts["td"])
    assert ("1,200 | notes 1,200 | 7 | books 4, notes 3" in cells) == found
    assert ("No identifier was found." in made.text) != found


def test_without_deidentification_nothing_is_said_of_it(tmp_path: Path) -> None:
    assert "de-identified" not in page(tmp_path).text
