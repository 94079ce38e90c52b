"""``reforge tokenizer`` and ``reforge tokenize``: recipe in, artifacts and metrics out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from megatron_core.data.documents import Document, write_shard
from megatron_core.data.indexed import IndexedDataset
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.vocabulary import Vocabulary
from megatron_core.errors import ReforgeError
from megatron_core.identity import manifest_path, read_manifest, verify_files
from stages.run import stage_run
from stages.tokenize import tokenize
from stages.tokenizer import tokenizer

TEXT = "The patient was seen for fever and a dry cough; the fever was mild and went in {} days."


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose documents are made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(
        "ingest: {sources: {notes: {kind: jsonl, path: none.jsonl},"
        " icd10cm: {kind: icd10cm}, hpo: {kind: hpo}}}\n"
        "tokenizer: {vocabulary: 300}\n"
        "execution: {workers: 1}\n"
    )
    params = tmp_path / "params.yaml"
    with stage_run("decontaminate", params=params, overrides=None, dry_run=False) as run:
        for split, rows in (("train", range(40)), ("heldout", range(40, 45))):
            documents = [Document("notes", row, TEXT.format(row)) for row in rows]
            write_shard(run.output / split / "00000.jsonl", documents)
    return tmp_path


def test_from_documents_to_datasets(project: Path) -> None:
    tokenizer()
    tokenize()
    trained = Tokenizer.load(project / "artifacts/tokenizer")
    dataset = IndexedDataset(project / "artifacts/tokenize/heldout/notes_text_document")
    assert [trained.decode(one) for one in dataset] == [
        TEXT.format(row) + "<|endoftext|>" for row in range(40, 45)
    ]
    vocabulary = Vocabulary.read(project / "artifacts/tokenize")
    assert vocabulary.size == 300
    assert 20 < vocabulary.begins_word.sum() < 200
    for stage in ("tokenizer", "tokenize"):
        artifact = project / "artifacts" / stage
        manifest = read_manifest(manifest_path(artifact))
        assert not verify_files(artifact, manifest, hashes=True)
    metrics = json.loads((project / "metrics/tokenize.json").read_text())
    assert metrics["heldout"]["total"]["tokens"] == len(dataset.tokens)
    assert metrics["train"]["sources"]["notes"]["documents"] == 40
    assert json.loads((project / "metrics/tokenizer.json").read_text())["vocabulary"] == 300


def test_a_tokenizer_that_changed_after_it_was_taken_is_noticed(project: Path) -> None:
    tokenizer()
    shutil.copytree(project / "artifacts/tokenizer", project / "mine")
    existing = ["tokenizer={kind: existing, path: mine}"]
    tokenizer(overrides=existing)
    tokenize(overrides=existing)
    added = project / "mine/special_tokens_map.json"
    added.write_text("{}")
    with pytest.raises(ReforgeError, match=r"mine was changed after .* `reforge tokenizer` again"):
        tokenize(overrides=existing)
    added.unlink()
    merges = project / "mine/tokenizer.json"
    merges.write_text(merges.read_text() + " ")
    with pytest.raises(ReforgeError, match="mine was changed after"):
        tokenize(overrides=existing)
    merges.write_text("{")
    with pytest.raises(ReforgeError, match="mine was changed after"):
        tokenize(overrides=existing)
    shutil.rmtree(project / "mine")
    tokenize(overrides=existing)


def test_a_failure_leaves_nothing(project: Path) -> None:
    with pytest.raises(ReforgeError, match=r"lower tokenizer\.vocabulary"):
        tokenizer(overrides=["tokenizer.vocabulary=4096"])
    assert not list((project / "artifacts").glob("*tokenizer*"))
    with pytest.raises(ReforgeError, match="run `reforge tokenizer` first"):
        tokenize()
