"""Signatures against exact integers, the theory, and datatrove's own stages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.data.dedup import DatatroveMinHash, Splitter, readers, write_shards
from megatron_core.config import DedupConfig
from megatron_core.data.dedup import MinHash, remove_duplicates
from megatron_core.data.documents import Document, read_shards
from megatron_core.data.words import Words
from tests.megatron_core.data.dedup.test_dedup import corpus
from tests.tasks import local_tasks


def test_agreement_of_signatures_estimates_the_similarity() -> None:
    minhash = MinHash.of(DedupConfig(buckets=512, hashes_per_bucket=4))
    draw = np.random.default_rng(0).integers(0, 2**63, 6000).astype(np.uint64)
    for shared in (0, 1000, 3000, 5900):
        other = np.concatenate([draw[:shared], draw[shared:] + np.uint64(1 << 40)])
        truth = shared / (12000 - shared)
        agreement = (minhash.signature(draw) == minhash.signature(other)).mean()
        # 2048 independent trials: four standard errors.
        assert abs(agreement - truth) < 4 * (max(truth, 0.001) * (1 - truth) / 2048) ** 0.5 + 1e-3


def test_signature_is_the_minimum_of_exact_integer_arithmetic() -> None:
    minhash = MinHash.of(DedupConfig(seed=7))
    shingles = np.random.default_rng(1).integers(0, 2**63, 5000).astype(np.uint64) * 2
    shingles[:2] = 0, 2**64 - 1
    expected = [
        min((int(a) * int(x) + int(b)) % 2**64 % (2**61 - 1) for x in shingles)
        for a, b in zip(minhash.multipliers[:6], minhash.offsets[:6], strict=True)
    ]
    assert minhash.signature(shingles)[:6].tolist() == expected


@pytest.mark.parametrize("value", [0, 1, 2**61 - 2, 2**61 - 1, 2**61, 2**64 - 2, 2**64 - 1])
def test_signature_at_the_edges_of_the_prime(value: int) -> None:
    """Where a sum of its parts is the prime itself, or more."""
    one, none = np.ones(1, dtype=np.uint64), np.zeros(1, dtype=np.uint64)
    found = MinHash(one, none, 1).signature(np.array([value], dtype=np.uint64))
    assert found.tolist() == [value % (2**61 - 1)]


def kept_by_datatrove(folder: Path, shards: list[list[Document]]) -> set[str]:
    """The ids that its four stages keep, all as they are but for the words."""
    stages = DatatroveMinHash(folder, Splitter())
    texts = readers(write_shards(folder / "shards", shards))
    stages.sign(texts)
    return {text.id for text in stages.keep(texts)}


@pytest.fixture(scope="module")
def long_enough() -> list[Document]:
    """datatrove keeps every text shorter than an n-gram: here are none."""
    return [document for document in corpus(5) if len(document.text.split()) >= 5]


def test_signatures_are_those_of_datatrove(tmp_path: Path, long_enough: list[Document]) -> None:
    config = DedupConfig()
    kept_by_datatrove(tmp_path, [long_enough])
    minhash = MinHash.of(config)
    signatures = np.stack(
        [
            minhash.signature(Words.of(d.text).ngram_hashes(config.ngram)).reshape(14, 8)
            for d in long_enough
        ]
    )
    record = np.dtype([(f"hash{i}", "<u8") for i in range(8)] + [("document", "<u4")])
    for bucket in range(config.buckets):
        records = np.empty(len(long_enough), dtype=record)
        for i in range(8):
            records[f"hash{i}"] = signatures[:, bucket, i]
        records["document"] = np.arange(len(long_enough))
        records.sort(order=record.names)
        written = tmp_path / f"signatures/bucket_{bucket:03d}/00000.minhash.sig"
        assert written.read_bytes() == records.tobytes()


def test_duplicates_are_those_of_datatrove(tmp_path: Path, long_enough: list[Document]) -> None:
    """Which one of a cluster stays differs, how many clusters there are does not: each of its
    clusters holds one of ours."""
    shards = [long_enough[shard::3] for shard in range(3)]
    theirs = kept_by_datatrove(tmp_path / "peer", shards)
    write_shards(tmp_path / "in", shards)
    remove_duplicates(tmp_path / "in", tmp_path / "out", DedupConfig(min_jaccard=0), local_tasks())
    ours = {document.id for document in read_shards(tmp_path / "out/documents")}
    assert len(theirs) < len(long_enough) - 20
    lines = (tmp_path / "out/duplicates.jsonl").read_text().splitlines()
    assert len(ours) == len(theirs) and len(lines) == len(long_enough) - len(theirs)
    kept = {line["id"]: line["kept"] for line in map(json.loads, lines)}
    assert {kept.get(document, document) for document in theirs} == ours
