"""Labelled descriptions out of ICD-10-CM documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_core.data.chapters import chapter_texts
from megatron_core.data.documents import Document, write_shard
from megatron_core.errors import CorpusError

CODES = {"A00": 3, "B20": 1, "C15": 9}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three categories, and a document of another source, in two shards."""
    documents = [
        Document(
            "icd", row, f"Category {category}",
            {
                "category": category,
                "chapter": f"chapter {category[0]}",
                "codes": [[f"{category}.{i}", f"{category} kind {i}"] for i in range(count)],
            },
        )
        for row, (category, count) in enumerate(CODES.items())
    ]  # fmt: skip
    write_shard(tmp_path / "00000.jsonl", documents[:2])
    write_shard(tmp_path / "00001.jsonl", [Document("wiki", 0, "text", {}), documents[2]])
    return tmp_path


@pytest.mark.parametrize("most", [1, 2, 3, 20])
def test_distinct_descriptions_of_each_category(folder: Path, most: int) -> None:
    found = chapter_texts(folder, "icd", most, seed=1)
    for category, count in CODES.items():
        rows = [i for i, group in enumerate(found.groups) if group == category]
        texts = {found.texts[i] for i in rows}
        assert len(texts) == len(rows) == min(most, count)
        assert texts <= {f"{category} kind {i}" for i in range(count)}
        assert {found.labels[i] for i in rows} == {f"chapter {category[0]}"}


def test_the_choice_is_the_seeds(folder: Path) -> None:
    choices = [chapter_texts(folder, "icd", 2, seed).texts for seed in (1, 1, 2, 3, 4)]
    assert choices[0] == choices[1]
    assert len({tuple(texts) for texts in choices}) > 1


def test_a_source_without_codes_is_refused(folder: Path) -> None:
    for source in ("wiki", "nowhere"):
        with pytest.raises(CorpusError, match=f"no codes of source {source}: ingest kind icd10cm"):
            chapter_texts(folder, source, 2, seed=1)
