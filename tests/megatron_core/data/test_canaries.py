"""Made-up secrets: which, where they stand, and that nothing else moves."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from megatron_core.config import CanariesConfig, TokenizeConfig
from megatron_core.data.canaries import Canaries, canary_of_row
from megatron_core.data.indexed import IndexedDataset, rows_path
from megatron_core.data.tasks import Tasks
from megatron_core.data.tokenization import tokenize_documents
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import CorpusError, IntegrityError
from tests.models import documents, small_tokenizer
from tests.tasks import ShuffledTasks, local_tasks
from tests.tokenizers import write_corpus

CONFIG = CanariesConfig(
    source="notes", format="MRN ##-##, a patient", copies=[1, 3], count=2, seed=5
)


def tokenized(
    folder: Path, tokenizer: Path, *, shards: int = 2, tasks: Tasks | None = None, **changes: object
) -> Path:
    """Train and held-out documents of two sources, tokenized."""
    train = [*documents("notes", range(30)), *documents("papers", range(8))]
    write_corpus(folder / "documents/train", train, shards)
    write_corpus(folder / "documents/heldout", documents("notes", range(50, 55)), shards)
    config = TokenizeConfig.model_validate({"canaries": CONFIG, **changes})
    (folder / "out").mkdir()
    tokenize_documents(
        folder / "documents", tokenizer, folder / "out", config, tasks or local_tasks()
    )
    return folder / "out"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer")


def test_no_two_secrets_are_the_same_and_all_are_found() -> None:
    canaries = Canaries(CONFIG)
    texts = [one.text for one in (*canaries.planted(), *canaries.controls())]
    texts += canaries.alternatives(1_000_000)
    assert sorted(texts) == [f"MRN {n // 100:02d}-{n % 100:02d}, a patient" for n in range(10_000)]
    assert canaries.alternatives(7) == canaries.alternatives(1000)[:7]
    other = Canaries(CONFIG.model_copy(update={"seed": 6}))
    assert other.planted() != canaries.planted()


def test_planted_as_often_as_asked_and_nothing_else_moves(tmp_path: Path, tokenizer: Path) -> None:
    with_them = tokenized(tmp_path / "with", tokenizer)
    without = tokenized(tmp_path / "without", tokenizer, canaries=None)
    name = "train/notes_text_document"
    dataset, rows = IndexedDataset(with_them / name), np.load(rows_path(with_them / name))
    encoder = Tokenizer.load(tokenizer)
    end = encoder.end_of_document
    found = Counter(
        encoder.decode(document[:-1].tolist())
        for document, row in zip(dataset, rows, strict=True)
        if row < 0 and document[-1] == end
    )
    assert found == {one.text: one.copies for one in Canaries(CONFIG).planted()}
    for row in rows[rows < 0]:
        (document,) = {tuple(dataset[n]) for n in np.flatnonzero(rows == row)}
        canary = canary_of_row(with_them, int(row))
        assert encoder.encode(canary.text) == list(document[:-1])
        assert (rows == row).sum() == canary.copies
    real = [document.tolist() for document, row in zip(dataset, rows, strict=True) if row >= 0]
    assert real == [document.tolist() for document in IndexedDataset(without / name)]
    assert rows[rows >= 0].tolist() == list(range(30))
    # They are spread, not one block.
    assert len(np.flatnonzero(np.diff(rows < 0))) > 4
    files = {path.relative_to(without) for path in without.rglob("*") if path.is_file()}
    changed = {
        str(path)
        for path in files
        if (without / path).read_bytes() != (with_them / path).read_bytes()
    }
    assert changed == {f"{name}.bin", f"{name}.idx", f"{name}.rows.npy"}
    more = {str(p.relative_to(with_them)) for p in with_them.rglob("*") if p.is_file()}
    assert more - set(map(str, files)) == {"canaries.json"}


def test_neither_shards_nor_workers_change_a_byte(tmp_path: Path, tokenizer: Path) -> None:
    first = tokenized(tmp_path / "a", tokenizer)
    second = tokenized(tmp_path / "b", tokenizer, shards=5, tasks=ShuffledTasks())
    files = [path for path in sorted(first.rglob("*")) if path.is_file()]
    assert len(files) == len([path for path in second.rglob("*") if path.is_file()])
    for path in files:
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


def test_a_source_without_documents_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    nowhere = CONFIG.model_copy(update={"source": "letters"})
    with pytest.raises(CorpusError, match=r"letters.*tokenize\.canaries\.source"):
        tokenized(tmp_path, tokenizer, canaries=nowhere)


@pytest.mark.parametrize("copies", [[], [0, 1], [2, 2]])
def test_groups_have_copies_of_their_own(copies: list[int]) -> None:
    with pytest.raises(ValidationError):
        CanariesConfig(source="notes", copies=copies)


def test_a_format_has_digits_enough() -> None:
    with pytest.raises(ValidationError, match="1 digits"):
        CanariesConfig(source="notes", format="MRN #", count=8)


def test_what_is_left_for_later_stages(tmp_path: Path) -> None:
    assert Canaries.read(tmp_path) is None
    Canaries(CONFIG).write(tmp_path)
    read = Canaries.read(tmp_path)
    assert read is not None
    assert read.config == CONFIG
    with pytest.raises(IntegrityError, match="row -5"):
        canary_of_row(tmp_path, -5)
    path = tmp_path / "canaries.json"
    told = json.loads(path.read_text())
    told["planted"][0]["text"] = "MRN"
    path.write_text(json.dumps(told))
    with pytest.raises(IntegrityError, match="was changed"):
        Canaries.read(tmp_path)
    path.write_text("{}")
    with pytest.raises(IntegrityError, match="damaged"):
        Canaries.read(tmp_path)
