"""Documents into indexed datasets: order, ends, drops, and nothing that depends on workers."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from megatron_core.config import TokenizeConfig
from megatron_core.data.documents import Document, write_shard
from megatron_core.data.indexed import IndexedDataset, IndexedWriter, rows_path
from megatron_core.data.tokenization import (
    dataset_prefix,
    datasets,
    shard,
    tokenize_documents,
)
from megatron_core.errors import CorpusError
from tests.tasks import local_tasks


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A tokenizer of bytes alone: the id of a letter is its place in the table below, plus 1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {"<|endoftext|>": 0}
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.add_special_tokens(["<|endoftext|>"])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    return folder


def ids(text: str) -> list[int]:
    """In the sorted byte alphabet "!" is first: printable ASCII keeps its order."""
    return [ord(letter) - ord("!") + 1 for letter in text]


TEXTS = {
    "notes": ["one", "", "three", "f<|endoftext|>r"],
    "papers": ["alpha", "beta"],
}


def write_splits(root: Path, shards: int, seed: int | None = None) -> Path:
    documents = [
        Document(source, row, text)
        for source, texts in TEXTS.items()
        for row, text in enumerate(texts)
    ]
    if seed is not None:
        random.Random(seed).shuffle(documents)
    for split, part in (("train", documents), ("heldout", documents[:3])):
        for number in range(shards):
            write_shard(root / split / f"{number:05d}.jsonl", part[number::shards])
    return root


@pytest.mark.parametrize("append", [True, False])
def test_datasets_hold_the_documents_in_order(
    tmp_path: Path, tokenizer: Path, append: bool
) -> None:
    documents = write_splits(tmp_path / "documents", shards=3)
    config = TokenizeConfig(append_end_of_document=append)
    (tmp_path / "out").mkdir()
    counts = tokenize_documents(documents, tokenizer, tmp_path / "out", config, local_tasks())
    end = [0] if append else []
    expected = [ids(text) + end for text in TEXTS["notes"] if text]
    dataset = IndexedDataset(tmp_path / "out/train/notes_text_document")
    assert [one.tolist() for one in dataset] == expected
    assert dataset.dtype == np.uint16
    payload = (tmp_path / "out/train/papers_text_document.bin").read_bytes()
    papers = ids("alpha") + end + ids("beta") + end
    assert payload == struct.pack(f"<{len(papers)}H", *papers)
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == [
        "notes_text_document.bin",
        "notes_text_document.bin",
        "notes_text_document.idx",
        "notes_text_document.idx",
        "notes_text_document.rows.npy",
        "notes_text_document.rows.npy",
        "papers_text_document.bin",
        "papers_text_document.idx",
        "papers_text_document.rows.npy",
    ]
    rows = np.load(rows_path(dataset.prefix))
    assert (rows.dtype, rows.tolist()) == (np.int64, [0, 2, 3])
    assert not (tmp_path / "out/.parts").exists()
    assert counts["train"]["papers"] == {
        "documents": 2,
        "dropped_empty": 0,
        "tokens": len(papers),
        "bytes": 2 * len(papers) + 34 + 2 * 12 + 3 * 8,
    }
    assert counts["train"]["notes"]["dropped_empty"] == 1
    assert counts["train"]["notes"]["documents"] == 3
    assert counts["heldout"]["notes"]["documents"] == 2


def test_neither_shards_nor_workers_change_a_byte(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "_SHARD_BYTES", {"reference": 1, "fast": 1})
    monkeypatch.setattr(datasets, "_JOINED_TOKENS", 1)
    outputs = []
    for number, (shards, seed, workers) in enumerate([(1, None, 1), (4, None, 2), (3, 5, 1)]):
        # The held-out documents are the first three, so shuffle only the training split.
        documents = write_splits(tmp_path / f"documents{number}", shards)
        if seed is not None:
            mixed = write_splits(tmp_path / f"mixed{number}", shards, seed)
            (documents / "train").rename(tmp_path / "unused")
            (mixed / "train").rename(documents / "train")
        output = tmp_path / f"out{number}"
        output.mkdir()
        counts = tokenize_documents(
            documents, tokenizer, output, TokenizeConfig(), local_tasks(workers)
        )
        files = {p.relative_to(output): p.read_bytes() for p in output.rglob("*") if p.is_file()}
        outputs.append((counts, files))
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_source_of_empty_documents_has_no_files(tmp_path: Path, tokenizer: Path) -> None:
    for split in ("train", "heldout"):
        documents = [Document("blank", 0, ""), Document("notes", 0, "x")]
        write_shard(tmp_path / f"documents/{split}/0.jsonl", documents)
    (tmp_path / "out").mkdir()
    counts = tokenize_documents(
        tmp_path / "documents", tokenizer, tmp_path / "out", TokenizeConfig(), local_tasks()
    )
    assert counts["train"]["blank"]["dropped_empty"] == 1
    assert counts["train"]["blank"]["documents"] == 0
    names = {path.name for path in (tmp_path / "out/train").iterdir()}
    assert names == {f"notes_text_document.{suffix}" for suffix in ("bin", "idx", "rows.npy")}


def test_refuses_a_split_without_text(tmp_path: Path, tokenizer: Path) -> None:
    documents = write_splits(tmp_path / "documents", shards=1)
    write_shard(documents / "heldout/00000.jsonl", [Document("notes", 0, "")])
    (tmp_path / "out").mkdir()
    with pytest.raises(CorpusError, match="heldout holds no text"):
        tokenize_documents(documents, tokenizer, tmp_path / "out", TokenizeConfig(), local_tasks())


def test_an_error_of_a_worker_keeps_its_message(tmp_path: Path, tokenizer: Path) -> None:
    documents = write_splits(tmp_path / "documents", shards=2)
    with (documents / "train/00001.jsonl").open("ab") as file:
        file.write(b"{torn\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(CorpusError, match=r"train/00001.jsonl:4"):
        tokenize_documents(documents, tokenizer, tmp_path / "out", TokenizeConfig(), local_tasks(2))


def test_prefix_is_that_of_megatron(tmp_path: Path) -> None:
    prefix = dataset_prefix(tmp_path, "train", "notes")
    with IndexedWriter(prefix, np.dtype(np.uint16)) as writer:
        writer.write([1])
    assert (tmp_path / "train/notes_text_document.bin").exists()


@pytest.mark.parametrize("parse", [True, False])
def test_a_special_token_in_a_text(tmp_path: Path, tokenizer: Path, parse: bool) -> None:
    config = TokenizeConfig(parse_special_tokens=parse, check_every=1)
    documents = write_splits(tmp_path / "documents", shards=2)
    (tmp_path / "out").mkdir()
    tokenize_documents(documents, tokenizer, tmp_path / "out", config, local_tasks())
    last = IndexedDataset(tmp_path / "out/train/notes_text_document")[2].tolist()
    assert last == [*ids("f"), 0, *ids("r"), 0] if parse else [*ids("f<|endoftext|>r"), 0]


@pytest.mark.parametrize("encoder", ["reference", "gigatoken"])
def test_what_encodes_changes_no_byte(tmp_path: Path, tokenizer: Path, encoder: str) -> None:
    if encoder == "gigatoken":
        pytest.importorskip("gigatoken")
    documents = write_splits(tmp_path / "documents", shards=2)
    found = []
    for name in ("auto", encoder):
        (tmp_path / name).mkdir()
        config = TokenizeConfig(encoder=name)
        tokenize_documents(documents, tokenizer, tmp_path / name, config, local_tasks())
        paths = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        found.append([(path.relative_to(tmp_path / name), path.read_bytes()) for path in paths])
    assert found[0] == found[1]


def test_a_killed_run_goes_on(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A task for each shard and each dataset.
    monkeypatch.setattr(datasets, "_SHARD_BYTES", {"reference": 1, "fast": 1})
    monkeypatch.setattr(datasets, "_JOINED_TOKENS", 1)
    documents = write_splits(tmp_path / "documents", shards=3)
    (tmp_path / "whole").mkdir()
    expected = tokenize_documents(
        documents, tokenizer, tmp_path / "whole", TokenizeConfig(), local_tasks()
    )
    tasks, output = local_tasks(), tmp_path / "out"
    output.mkdir()
    read, join = shard.read_batches, datasets._join

    def stop_at(name: str) -> None:
        def reading(path: Path) -> object:
            if path.stem == name:
                raise KeyboardInterrupt
            opened.append(path)
            return read(path)

        monkeypatch.setattr(shard, "read_batches", reading)

    def stop_joining(dataset: datasets._Dataset) -> dict[str, int]:
        joined.append((dataset.split, dataset.source))
        if dataset.source == "papers" and len(joined) == 3:
            (output / "train").mkdir(exist_ok=True)
            (output / "train/papers_text_document.bin").write_bytes(b"half")
            raise KeyboardInterrupt
        return join(dataset)

    opened: list[Path] = []
    joined: list[tuple[str, str]] = []
    stop_at("00001")
    with pytest.raises(KeyboardInterrupt):
        tokenize_documents(documents, tokenizer, output, TokenizeConfig(), tasks)
    stop_at("none")
    monkeypatch.setattr(datasets, "_join", stop_joining)
    with pytest.raises(KeyboardInterrupt):
        tokenize_documents(documents, tokenizer, output, TokenizeConfig(), tasks)
    assert tokenize_documents(documents, tokenizer, output, TokenizeConfig(), tasks) == expected
    assert len(opened) == len(set(opened)) == 6  # No shard was done twice.
    assert joined == [("heldout", "notes"), ("train", "notes"), *[("train", "papers")] * 2]
    for path in (tmp_path / "whole").rglob("*.*"):
        assert (output / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()


def test_megatron_reads_and_would_write_the_same(tmp_path: Path, tokenizer: Path) -> None:
    peer = pytest.importorskip(
        "megatron.core.datasets.indexed_dataset", reason="megatron-core is not installed"
    )
    documents = write_splits(tmp_path / "documents", shards=2)
    (tmp_path / "out").mkdir()
    tokenize_documents(documents, tokenizer, tmp_path / "out", TokenizeConfig(), local_tasks())
    builder = peer.IndexedDatasetBuilder(
        str(tmp_path / "peer.bin"), dtype=peer.DType.optimal_dtype(257)
    )
    for text in filter(None, TEXTS["notes"]):
        builder.add_document([*ids(text), 0], [len(ids(text)) + 1])
    builder.finalize(str(tmp_path / "peer.idx"))
    ours = tmp_path / "out/train/notes_text_document"
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"peer.{suffix}").read_bytes() == Path(f"{ours}.{suffix}").read_bytes()
    dataset = peer.IndexedDataset(str(ours))
    assert [one.tolist() for one in dataset] == [[*ids(t), 0] for t in TEXTS["notes"] if t]
