"""Normalization as properties; each rule by a text that fails it alone."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.config import CurateConfig
from megatron_core.data.curation import curate_documents, drop_reason, normalize
from megatron_core.data.documents import Document, read_shard, write_shard
from megatron_core.errors import CorpusError
from tests.tasks import local_tasks

GOOD = "A text of plain words that is long enough to stay."
SPACED = st.text(st.sampled_from("ab \t\n\r\x0b\x00\x85\xa0\u2028\u0301é\ufeff"))


@given(SPACED)
def test_normalized_texts_are_normal(text: str) -> None:
    normal = normalize(text)
    assert normalize(normal) == normal
    assert unicodedata.is_normalized("NFC", normal)
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in normal)
    assert "\n\n\n" not in normal and normal == normal.strip()
    for line in normal.split("\n"):
        assert line == line.rstrip() and "  " not in line.lstrip()
    # Nothing but spaces and controls is lost.
    kept = [c for c in unicodedata.normalize("NFC", text) if not c.isspace() and c > "\x1f"]
    assert [c for c in normal if not c.isspace()] == [c for c in kept if c not in "\x85\ufeff"]


def test_normalizing_keeps_indentation_and_joiners() -> None:
    assert normalize("def f():\r\n    return  1\t \r\n\r\n\r\nx") == "def f():\n    return 1\n\nx"
    assert normalize("می\u200cخواهم") == "می\u200cخواهم"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, None),
        (GOOD[:39], "too_short"),
        (GOOD[:40], None),
        (GOOD * 3, "too_long"),
        ("0123456789 " * 6, "few_letters"),
        ("हिन्दी में लिखा हुआ एक साधारण वाक्य जो काफ़ी लम्बा है।", None),  # a third are marks
        ("one line that comes back\n" * 3 + "and another one", "repeated_lines"),
        ("one line that comes back\n\n" * 2 + "and another one", None),
    ],
)
def test_each_rule(text: str, reason: str | None) -> None:
    config = CurateConfig(max_characters=120, max_repeated_lines=0.4, min_alphabetic=0.8)
    assert drop_reason(text, config) == reason


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_keep_their_names_and_workers_change_nothing(tmp_path: Path, workers: int) -> None:
    for shard in range(3):
        documents = [
            Document("a", row, "short" if row % 2 else f"{GOOD}  {row}", {"n": row})
            for row in range(shard, 12, 3)
        ]
        write_shard(tmp_path / f"in/{shard:05d}.jsonl", documents)
    write_shard(tmp_path / "in/00003.jsonl", [])
    counts = curate_documents(
        tmp_path / "in", tmp_path / "out", CurateConfig(), local_tasks(workers)
    )
    for shard in range(3):
        assert list(read_shard(tmp_path / f"out/documents/{shard:05d}.jsonl")) == [
            Document("a", row, f"{GOOD} {row}", {"n": row})
            for row in range(shard, 12, 3) if row % 2 == 0
        ]  # fmt: skip
    assert list(read_shard(tmp_path / "out/documents/00003.jsonl")) == []
    assert (counts.documents, counts.dropped) == (6, {"too_short": 6})
    assert json.loads((tmp_path / "out/drops.json").read_text()) == {
        "too_short": {
            "documents": 6,
            "samples": [{"id": f"a/{row}", "text": "short"} for row in (3, 9, 1)],
        }
    }


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "in/00000.jsonl", [Document("a", 0, "short")])
    with pytest.raises(CorpusError, match="too_short 1"):
        curate_documents(tmp_path / "in", tmp_path / "out", CurateConfig(), local_tasks())
