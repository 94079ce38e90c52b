"""Indexed datasets against files written by hand and by datatrove."""

from __future__ import annotations

import pickle
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.data import indexed
from megatron_core.data.indexed import IndexedDataset, IndexedWriter, token_dtype
from megatron_core.errors import CorpusError

DOCUMENTS = [[5, 6, 7], [], [65_000], [1, 2]]


def by_hand(documents: list[list[int]], code: int, letter: str) -> tuple[bytes, bytes]:
    """The two files of a dataset with a sequence per document, field by field."""
    size = struct.calcsize(letter)
    index = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + struct.pack("<B", code)
    index += struct.pack("<Q", len(documents)) + struct.pack("<Q", len(documents) + 1)
    for document in documents:
        index += struct.pack("<i", len(document))
    offset = 0
    for document in documents:
        index += struct.pack("<q", offset)
        offset += size * len(document)
    for i in range(len(documents) + 1):
        index += struct.pack("<q", i)
    return b"".join(struct.pack("<" + letter, t) for d in documents for t in d), index


def write(prefix: Path, documents: list[list[int]], vocabulary: int = 1000) -> None:
    with IndexedWriter(prefix, token_dtype(vocabulary)) as writer:
        for document in documents:
            writer.write(document)


@pytest.mark.parametrize(
    ("vocabulary", "code", "letter"), [(65_499, 8, "H"), (65_500, 4, "i"), (200_000, 4, "i")]
)
def test_writes_the_documented_bytes(
    tmp_path: Path, vocabulary: int, code: int, letter: str
) -> None:
    write(tmp_path / "a.b", DOCUMENTS, vocabulary)
    payload, index = by_hand(DOCUMENTS, code, letter)
    assert (tmp_path / "a.b.bin").read_bytes() == payload
    assert (tmp_path / "a.b.idx").read_bytes() == index


@pytest.mark.parametrize("token_size", [2, 4])
def test_writes_the_bytes_of_datatrove(tmp_path: Path, token_size: int) -> None:
    from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile

    peer = MegatronTokenizedFile(str(tmp_path), "peer", token_size=token_size)
    for document in DOCUMENTS:
        peer.write(document)
    peer.close()
    write(tmp_path / "ours", DOCUMENTS, 1000 if token_size == 2 else 100_000)
    for suffix in ("bin", "idx"):
        ours, theirs = (tmp_path / f"{name}.{suffix}" for name in ("ours", "peer"))
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    ("code", "letter", "dtype"),
    [(1, "B", "u1"), (3, "h", "i2"), (4, "i", "i4"), (5, "q", "i8"), (8, "H", "u2")],
)
def test_reads_files_written_by_hand(tmp_path: Path, code: int, letter: str, dtype: str) -> None:
    documents = [[1, 2, 3], [], [100], [7]]
    payload, index = by_hand(documents, code, letter)
    (tmp_path / "x.bin").write_bytes(payload)
    (tmp_path / "x.idx").write_bytes(index)
    dataset = IndexedDataset(tmp_path / "x")
    assert dataset.dtype == np.dtype(dtype) == dataset.tokens.dtype
    assert [one.tolist() for one in dataset] == documents
    assert dataset.tokens.tolist() == [1, 2, 3, 100, 7]
    assert dataset.lengths.tolist() == [3, 0, 1, 1]
    assert dataset.lengths.dtype == np.int32
    assert dataset.offsets.tolist() == [n * struct.calcsize(letter) for n in (0, 3, 3, 4)]
    assert dataset.documents.tolist() == [0, 1, 2, 3, 4]


def test_reads_documents_of_several_sequences(tmp_path: Path) -> None:
    index = struct.pack("<9sQBQQ3i3q3q", b"MMIDIDX\0\0", 1, 8, 3, 3, 1, 2, 1, 0, 2, 6, 0, 2, 3)
    (tmp_path / "x.bin").write_bytes(struct.pack("<4H", 9, 8, 7, 6))
    (tmp_path / "x.idx").write_bytes(index)
    dataset = IndexedDataset(tmp_path / "x")
    assert dataset.documents.tolist() == [0, 2, 3]
    assert [one.tolist() for one in dataset] == [[9], [8, 7], [6]]


@given(
    documents=st.lists(st.lists(st.integers(0, 65_498), max_size=20), max_size=8),
    vocabulary=st.sampled_from([65_499, 65_500]),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], vocabulary: int
) -> None:
    prefix = tmp_path_factory.mktemp("indexed") / "x"
    write(prefix, documents, vocabulary)
    dataset = IndexedDataset(prefix)
    assert len(dataset) == len(documents)
    assert [one.tolist() for one in dataset] == documents
    assert [one.tolist() for one in dataset[::-1]] == documents[::-1]
    assert dataset.tokens.tolist() == [token for document in documents for token in document]


def test_is_read_only_and_travels_to_workers(tmp_path: Path) -> None:
    write(tmp_path / "x", [[1, 2], [3]])
    dataset = IndexedDataset(tmp_path / "x")
    with pytest.raises(ValueError, match="read-only"):
        dataset[0][0] = 9
    message = pickle.dumps(dataset)
    assert len(message) < 1000
    assert pickle.loads(message)[-1].tolist() == [3]
    with pytest.raises(IndexError, match="sequence 2 of 2"):
        dataset[2]


@pytest.mark.parametrize(("vocabulary", "token"), [(10, 65_536), (10, -1), (100_000, 2**31)])
def test_refuses_tokens_that_do_not_fit(tmp_path: Path, vocabulary: int, token: int) -> None:
    with pytest.raises(CorpusError, match=rf"document 1 holds the token {token}"):
        write(tmp_path / "x", [[1], [2, token]], vocabulary)
    assert not list(tmp_path.iterdir())


def patched(offset: int, value: bytes) -> object:
    return lambda content: content[:offset] + value + content[offset + len(value) :]


@pytest.mark.parametrize(
    ("suffix", "damage", "problem"),
    [
        ("idx", lambda content: content[:20], "20 bytes long, shorter than its header"),
        ("idx", lambda content: content[:-1], "bytes long where its header counts"),
        ("idx", lambda content: content + b"12", "bytes long where its header counts"),
        ("idx", lambda content: content + b"123", "multimodal datasets are not supported"),
        ("idx", patched(0, b"X"), "not the index of a Megatron dataset"),
        ("idx", patched(9, b"\2"), "format version 2"),
        ("idx", patched(17, b"\7"), "dtype code 7"),
        ("idx", patched(18, b"\xff" * 8), "its header counts"),
        ("idx", patched(34, struct.pack("<i", -2)), "negative length"),
        ("idx", patched(34 + 12 + 8, struct.pack("<q", 2)), "do not follow one another"),
        ("idx", patched(34 + 12, struct.pack("<q", 2)), "not at the start"),
        ("idx", patched(34 + 36 + 8, struct.pack("<q", 7)), "documents that do not cover"),
        ("idx", patched(34 + 36, struct.pack("<q", 1)), "documents that do not cover"),
        ("idx", patched(34 + 36 + 24, struct.pack("<q", 2)), "documents that do not cover"),
        ("bin", lambda content: content[:-1], "holds 11 bytes where x.idx counts 12"),
        ("bin", lambda content: content + b"12", "holds 14 bytes where x.idx counts 12"),
    ],
)
def test_names_the_damaged_file(tmp_path: Path, suffix: str, damage, problem: str) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path / "x", [[1, 2, 3], [4], [5, 6]])
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorpusError, match=problem) as caught:
        IndexedDataset(tmp_path / "x")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_names_the_missing_file(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "x", [[1]])
    (tmp_path / f"x.{suffix}").unlink()
    with pytest.raises(CorpusError, match=f"x.{suffix} does not exist"):
        IndexedDataset(tmp_path / "x")


def test_keeps_nothing_of_a_failed_write(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), IndexedWriter(tmp_path / "x", token_dtype(10)) as writer:
        writer.write([1])
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_opening_looks_at_a_sample_and_verifying_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexed, "_SAMPLE", 3)
    monkeypatch.setattr(indexed, "_SAMPLE_BLOCK", 10)
    monkeypatch.setattr(indexed, "_BLOCK", 7)
    write(tmp_path / "x", [[1, 2]] * 1000)
    content = (tmp_path / "x.idx").read_bytes()
    assert content == by_hand([[1, 2]] * 1000, 8, "H")[1]
    IndexedDataset(tmp_path / "x").verify()
    for document, opens in ((300, True), (502, False), (995, False)):
        damaged = patched(34 + 4000 + 8 * document, struct.pack("<q", 2))(content)  # type: ignore[operator]
        (tmp_path / "x.idx").write_bytes(damaged)
        if opens:
            dataset = IndexedDataset(tmp_path / "x")
            with pytest.raises(CorpusError, match="do not follow one another"):
                dataset.verify()
        else:
            with pytest.raises(CorpusError, match="do not follow one another"):
                IndexedDataset(tmp_path / "x")


def test_many_datasets_are_open_at_once(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for number in range(100):
        write(tmp_path / str(number), [[number]])
    used = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 60
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 250, hard))
    try:
        datasets = [IndexedDataset(tmp_path / str(number)) for number in range(100)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [int(dataset[0][0]) for dataset in datasets] == list(range(100))


def test_documents_are_written_many_at_once(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "x", token_dtype(1000)) as writer:
        writer.write_documents(np.arange(5, dtype=np.uint32), np.array([2, 3]))
        writer.write_documents(np.arange(3, dtype="<u2"), np.array([3]))
    assert (tmp_path / "x.bin").read_bytes() == struct.pack("<8H", 0, 1, 2, 3, 4, 0, 1, 2)
    with (
        pytest.raises(CorpusError, match="document 3 holds the token 65536"),
        IndexedWriter(tmp_path / "y", token_dtype(1000)) as writer,
    ):
        writer.write_documents(np.array([1, 2]), np.array([1, 1]))
        writer.write_documents(np.array([1, 2, 65_536]), np.array([1, 2]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin", "x.idx"]
