"""Pairs of answers as texts, as messages, and with the prompt within them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_core.data.tuning.instructions import Turn
from megatron_core.data.tuning.preferences import Preference, read_preferences
from megatron_core.errors import CorpusError

ASKED = {"role": "user", "content": "q"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def lines(path: Path, *records: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [
        ("q", "a", "b"),
        ([ASKED], "a", "b"),
        ("q", [said("a")], [said("b")]),
        ([ASKED], [ASKED, said("a")], [ASKED, said("b")]),
        (None, [ASKED, said("a")], [ASKED, said("b")]),
    ],
)
def test_every_layout_says_the_same(
    tmp_path: Path, prompt: Any, chosen: Any, rejected: Any
) -> None:
    record = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    same = {"prompt": prompt, "chosen": chosen, "rejected": chosen}
    read = read_preferences(
        lines(tmp_path / "a.jsonl", record, same), prompt="prompt" if prompt else None
    )
    assert read.items == (Preference("a.jsonl:1", (Turn("user", "q"),), "a", "b"),)
    assert read.counts == {"equal_left_out": 1}


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "the answer in 'rejected' is empty"),
        ({"prompt": "q", "chosen": "a"}, "no field 'rejected'"),
        ({"prompt": [ASKED, said("x")], "chosen": "a", "rejected": "b"}, "does not end with"),
        (
            {"prompt": [ASKED], "chosen": [said("x"), said("a")], "rejected": "b"},
            "the roles are assistant, assistant",
        ),
        (
            {"prompt": [{**ASKED, "content": "z"}], "chosen": [ASKED, said("a")], "rejected": "b"},
            "must be the prompt's turns and one of the assistant",
        ),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "both answers are equal in all"),
    ],
)
def test_names_what_is_wrong(tmp_path: Path, record: Any, problem: str) -> None:
    with pytest.raises(CorpusError, match=problem):
        read_preferences(lines(tmp_path / "a.jsonl", record))


def test_prompts_within_the_answers_must_be_one(tmp_path: Path) -> None:
    other = {**ASKED, "content": "z"}
    path = lines(
        tmp_path / "a.jsonl", {"chosen": [ASKED, said("a")], "rejected": [other, said("b")]}
    )
    with pytest.raises(CorpusError, match="'chosen' and 'rejected' answer other prompts"):
        read_preferences(path, prompt=None)
