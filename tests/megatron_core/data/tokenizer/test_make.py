"""The trained tokenizer against texts, transformers and hand-made corpora."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.config import ByteBpe
from megatron_core.data.documents import Document, write_shard
from megatron_core.data.tokenizer import Tokenizer, draw_sample, make_tokenizer
from megatron_core.errors import CorpusError
from tests.tokenizers import HARD, corpus, made, write_corpus

CONFIG = ByteBpe(vocabulary=400, sample_megabytes=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer trained on the corpus."""
    return made(tmp_path_factory.mktemp("tokenizer"), CONFIG)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@given(text=st.text())
def test_every_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text, text]) == [ids, ids]
    assert tokenizer.end_of_document not in ids
    assert all(0 <= token < tokenizer.vocabulary_size for token in ids)


def test_sizes_and_the_control_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocabulary_size == CONFIG.vocabulary
    assert tokenizer.end_of_document == 0
    assert tokenizer.decode([0]) == "<|endoftext|>"
    spelled = tokenizer.encode("<|endoftext|>")
    assert len(spelled) > 1
    assert 0 not in spelled


def test_transformers_opens_the_folder(folder: Path, tokenizer: Tokenizer) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert theirs.is_fast
    assert len(theirs) == tokenizer.vocabulary_size
    assert [theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id] == [0, 0, 0]
    for text in [*HARD, *(document.text for document in corpus(20))]:
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text


def test_report_counts_the_sample(folder: Path, tokenizer: Tokenizer) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert report["vocabulary"] == 400
    assert report["special_tokens"] == {"<|endoftext|>": 0}
    assert list(report["sources"]) == ["notes", "papers"]
    texts = [document.text for document in corpus() if document.source == "notes"]
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    assert report["sources"]["notes"] == {
        "documents": 150,
        "exact_round_trips": 150,
        "words": 150 * 30,
        "bytes": sum(map(len, texts)),
        "tokens": tokens,
        "unknown_tokens": 0,
        "unknown_share": 0.0,
        "tokens_per_word": round(tokens / (150 * 30), 4),
        "bytes_per_token": round(sum(map(len, texts)) / tokens, 4),
    }
    assert report["sample"]["documents"] == 300


def test_same_bytes_for_any_shards(tmp_path: Path, folder: Path) -> None:
    documents = corpus()
    random.Random(2).shuffle(documents)
    (tmp_path / "out").mkdir()
    make_tokenizer(write_corpus(tmp_path / "train", documents, 5), tmp_path / "out", CONFIG)
    for path in folder.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("threads", ["1", "7"])
def test_same_bytes_for_any_threads(tmp_path: Path, folder: Path, threads: str) -> None:
    write_corpus(tmp_path / "train", corpus(), 3)
    (tmp_path / "out").mkdir()
    program = (
        "from pathlib import Path\n"
        "from megatron_core.config import ByteBpe\n"
        "from megatron_core.data.tokenizer import make_tokenizer\n"
        "make_tokenizer(Path('train'), Path('out'),"
        " ByteBpe(vocabulary=400, sample_megabytes=1))"
    )
    environment = os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (
        folder / "tokenizer.json"
    ).read_bytes()


@given(sizes=st.lists(st.integers(0, 9), max_size=12), limit=st.integers(1, 40), seed=st.integers())
def test_sample_is_bounded_and_knows_no_order(sizes: list[int], limit: int, seed: int) -> None:
    documents = [Document("s", row, "é" * size) for row, size in enumerate(sizes)]
    sample = draw_sample(documents, limit)
    shuffled = random.Random(seed).sample(documents, len(documents))
    assert draw_sample(shuffled, limit) == sample
    total = sum(2 * size for size in sizes)
    taken = [2 * len(document.text) for document in sample]
    assert sum(taken) >= min(limit, total)
    assert sum(taken[:-1]) < limit
    assert all(taken)


def test_sample_is_not_the_first_documents() -> None:
    documents = [Document("s", row, "x" * 10) for row in range(1000)]
    rows = [document.row for document in draw_sample(documents, 1000)]
    assert len(rows) == 100
    assert 350 < sum(rows) / len(rows) < 650


def test_says_what_to_lower_when_the_text_is_too_little(tmp_path: Path) -> None:
    write_shard(tmp_path / "train/0.jsonl", [Document("s", 0, "abab abab")])
    (tmp_path / "out").mkdir()
    # 256 bytes, the control token, and the merges ab, abab.
    with pytest.raises(
        CorpusError, match=r"yields 259 tokens, not 400: lower tokenizer\.vocabulary"
    ):
        make_tokenizer(tmp_path / "train", tmp_path / "out", CONFIG)
    assert not list((tmp_path / "out").iterdir())


def test_refuses_documents_without_text(tmp_path: Path) -> None:
    write_shard(tmp_path / "train/0.jsonl", [Document("s", 0, "")])
    with pytest.raises(CorpusError, match="holds no text"):
        make_tokenizer(tmp_path / "train", tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("tokenizer.json", None, "tokenizer.json does not exist"),
        ("tokenizer.json", '{"model": 3', "no readable tokenizer"),
        ("tokenizer_config.json", None, "tokenizer_config.json does not exist"),
        ("tokenizer_config.json", "{", "no readable tokenizer"),
        ("tokenizer_config.json", "{}", "names no eos_token"),
        ("tokenizer_config.json", '{"eos_token": "<end>"}', "has no token '<end>'"),
    ],
)
def test_names_what_is_wrong_with_a_folder(
    tmp_path: Path, folder: Path, name: str, content: str | None, problem: str
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=problem) as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_reads_an_end_token_written_as_an_object(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|endoftext|>"}}')
    assert Tokenizer.load(tmp_path).end_of_document == 0
