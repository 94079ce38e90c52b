"""Shards through curation: what stays, what is counted, and what workers do not change."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from megatron_core.config import CurateConfig
from megatron_core.config.corpus.curate import C4Quality, Deidentify, GopherQuality, Language
from megatron_core.data.curation import Tally, curate_documents, language
from megatron_core.data.curation.shards import Curator
from megatron_core.data.documents import Document, read_shard, read_shards, write_shard
from megatron_core.errors import CorpusError, MissingExtraError
from tests.tasks import local_tasks

GOOD = "A text of plain words that is long enough to stay."


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


def curate_lines(
    folder: Path, texts: dict[str, list[str]], config: CurateConfig
) -> tuple[Tally, dict[str, Document], str]:
    """Curate texts by source, dealt into two shards; the tally, what stays by id, the drops."""
    documents = [
        Document(source, row, text) for source in texts for row, text in enumerate(texts[source])
    ]
    for shard in range(2):
        write_shard(folder / f"in/{shard:05d}.jsonl", documents[shard::2])
    tally = curate_documents(folder / "in", folder / "out", config, local_tasks())
    return (
        tally,
        {document.id: document for document in read_shards(folder / "out/documents")},
        (folder / "out/drops.json").read_text(),
    )


NOTE = "Patient: Keawe Dabydeen, seen on 03/14/2019. Mr. Dabydeen sleeps well and eats again."


def test_what_identifies_goes_from_texts_and_from_samples(tmp_path: Path) -> None:
    pytest.importorskip("presidio_analyzer", reason="the extra `clinical` is not installed")
    texts = {
        "notes": [NOTE, "Dr. Dabydeen.", NOTE + " He is well." * 20, NOTE.replace("a", "1")],
        "books": ["The river is long, and the boats on it are slow today."],
    }
    config = CurateConfig(deidentify=Deidentify(), max_characters=300, min_alphabetic=0.8)
    tally, kept, drops = curate_lines(tmp_path, texts, config)
    assert kept["notes/0"].text == (
        "Patient: [**NAME**], seen on [**DATE**]. Mr. [**NAME**] sleeps well and eats again."
    )
    assert kept["notes/0"].metadata == {"edits": {"deidentified": {"DATE": 1, "NAME": 2}}}
    assert kept["books/0"].metadata == {}
    assert tally.dropped == {"too_short": 1, "too_long": 1, "few_letters": 1}
    assert "[**NAME**]" in drops and "Dabydeen" not in drops and "Keawe" not in drops
    assert tally.metrics()["sources"] == {
        "books": {"documents": 1},
        "notes": {"documents": 1, "deidentified": {"DATE": 1, "NAME": 2}},
    }


def test_a_sample_does_not_end_in_half_a_name(tmp_path: Path) -> None:
    """Half a name is not known as one, so what is shown is cut after it was replaced."""
    pytest.importorskip("presidio_analyzer", reason="the extra `clinical` is not installed")
    note = "The patient is doing well today. Call 555-867-5309 or write to Mr. Keawe Dabydeen."
    for most in (40, 50, 70, 76):
        config = CurateConfig(deidentify=Deidentify(), min_characters=1, max_characters=most)
        folder = tmp_path / str(most)
        _, _, drops = curate_lines(folder, {"notes": [note], "books": ["It is."]}, config)
        assert "[**PHONE**] or write to Mr. [**NAME**]." in drops


def test_what_came_before_changes_nothing_with_all_switched_on() -> None:
    """So a shard is the same whichever process curates it, after whatever others."""
    for extra in ("presidio_analyzer", "py3langid", "spacy"):
        pytest.importorskip(extra, reason="an extra is not installed")
    config = CurateConfig(
        language=Language(languages=["en"]),
        deidentify=Deidentify(consistent=True),
        gopher_quality=GopherQuality(min_doc_words=12, min_stop_words=1),
        c4_quality=C4Quality(min_num_sentences=1, filter_curly_bracket=False),
    )
    texts = [f"{NOTE} {GOOD}", f"IS_ALPHA is one word. {GOOD}", NOTE, GOOD, f"{GOOD} {NOTE}"]
    documents = [Document("a", row, text) for row, text in enumerate(texts)]

    def curate(order: list[Document]) -> dict[str, Document | None]:
        curator, tally = Curator(config), Tally()
        return {document.id: curator.curate(document, tally) for document in order}

    first = curate(documents)
    assert 1 < sum(kept is not None for kept in first.values()) < len(texts)
    for seed in range(4):
        assert curate(random.Random(seed).sample(documents * 3, 15)) == first


def test_languages_are_counted_by_source(tmp_path: Path) -> None:
    pytest.importorskip("py3langid", reason="the extra `curation` is not installed")
    german = "Der Patient wurde in der Klinik untersucht und kommt in zwei Wochen wieder."
    texts = {"a": [GOOD, german], "b": [german, "short"], "c": [GOOD]}
    config = CurateConfig(language=Language(languages=["en"]))
    tally, kept, _ = curate_lines(tmp_path, texts, config)
    assert [*kept] == ["a/0", "c/0"]
    assert tally.metrics() == {
        "documents": 2,
        "characters": 2 * len(GOOD),
        "dropped": 3,
        "reasons": {"language/other": 2, "too_short": 1},
        "sources": {
            "a": {"documents": 1, "languages": {"de": 1, "en": 1}},
            "b": {"documents": 0, "languages": {"de": 1}},
            "c": {"documents": 1, "languages": {"en": 1}},
        },
    }
    assert [*tally.metrics()["sources"]] == ["a", "b", "c"]


def test_lines_taken_out_are_told(tmp_path: Path) -> None:
    pytest.importorskip("spacy", reason="the extra `curation` is not installed")
    lines = ["This is one full line of text.", "", "menu", "This is another line of text.[3]"]
    config = CurateConfig(c4_quality=C4Quality(min_num_sentences=2))
    tally, kept, _ = curate_lines(tmp_path, {"a": ["\n".join(lines), GOOD + "\n" + GOOD]}, config)
    assert kept["a/0"].text == f"{lines[0]}\n{lines[3][:-3]}"
    assert kept["a/0"].metadata == {"edits": {"characters_removed": 9, "lines_removed": 1}}
    assert kept["a/1"].metadata == {}
    assert tally.characters == sum(len(document.text) for document in kept.values())


def test_what_is_missing_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    language._load_model.cache_clear()
    with pytest.raises(MissingExtraError, match=r"py3langid.*reforge-llm\[curation\]"):
        curate_lines(tmp_path, {"a": [GOOD]}, CurateConfig(language=Language(languages=["en"])))
    assert not (tmp_path / "out").exists()
