"""Which near-duplicates are found, by how alike they are: planted pairs, and real answers.

``MEDQUAD`` in the environment names the JSON lines of the MedQuAD answers, which are looked at
where they are.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.data.corpus import replaced, sentences, text_of_words, vocabulary_of
from benchmarks.data.dedup import DatatroveMinHash, Splitter, readers, write_shards
from benchmarks.tables import write_table
from megatron_core.config import DedupConfig, LocalExecution
from megatron_core.config.corpus.sources import Jsonl
from megatron_core.data.dedup import DedupCounts, remove_duplicates
from megatron_core.data.documents import Document
from megatron_core.data.sources import Record, open_source
from megatron_core.data.tasks import Tasks

_PAIRS = 6000
_BANDS = np.round(np.arange(0.3, 1.001, 0.1), 1)


def planted_pairs(count: int, seed: int = 1) -> list[Document]:
    """Texts 2n and 2n + 1 are a pair: the second has a share of the words drawn anew such that
    similarities are spread evenly from about 0.3 to 1."""
    draw = np.random.default_rng(seed)
    vocabulary = vocabulary_of(seed)
    documents = []
    for n in range(count):
        words = text_of_words(int(draw.integers(150, 400)), draw)
        similarity = 0.28 + 0.72 * draw.random()
        # An n-gram of 5 stays with probability q = (1 - share)^5, and J is q / (2 - q).
        share = 1 - (2 * similarity / (1 + similarity)) ** 0.2
        for place, text in enumerate((words, replaced(words, share, draw))):
            documents.append(Document("pair", 2 * n + place, sentences(vocabulary[text])))
    return documents


def jaccard(one: str, other: str, length: int) -> float:
    """Of the sets of word n-grams, by Python's own sets and ``str.split``."""
    sets = []
    for text in (one, other):
        words = text.lower().replace(".", "").split()
        sets.append({tuple(words[i : i + length]) for i in range(len(words) - length + 1)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def _remove(folder: Path, shards: list[Path], config: DedupConfig) -> DedupCounts:
    tasks = Tasks(folder / "tasks", LocalExecution())
    folder.mkdir()
    return remove_duplicates(shards[0].parent, folder, config, tasks)


def _removed(folder: Path) -> list[dict[str, str]]:
    with (folder / "duplicates.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _flagged(ids: Iterable[str]) -> np.ndarray:
    """Of which pairs one document was removed: bool [pairs]."""
    pairs = np.array([int(name.rpartition("/")[2]) // 2 for name in ids])
    return np.isin(np.arange(_PAIRS), pairs)


def run() -> None:
    """Pairs found in each band of similarity, and the clusters of the answers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _measure_pairs(folder)
        if path := os.environ.get("MEDQUAD"):
            _look_at_answers(folder, path)
        else:
            print("MEDQUAD is not set: the answers are left out")


def _measure_pairs(folder: Path) -> None:
    documents = planted_pairs(_PAIRS)
    config = DedupConfig()
    truth = np.array(
        [
            jaccard(one.text, other.text, config.ngram)
            for one, other in zip(documents[::2], documents[1::2], strict=True)
        ]
    )
    theory = 1 - (1 - truth**config.hashes_per_bucket) ** config.buckets
    shards = write_shards(folder / "pairs", [documents[n::4] for n in range(4)])
    _remove(folder / "verified", shards, config)
    _remove(folder / "trusting", shards, config.model_copy(update={"min_jaccard": 0.0}))
    peer, texts = DatatroveMinHash(folder / "peer", Splitter()), readers(shards)
    peer.sign(texts)
    kept = {text.id for text in peer.keep(texts)}
    found = {
        "theory": theory,
        "datatrove": _flagged(d.id for d in documents if d.id not in kept),
        "ours, min_jaccard 0": _flagged(line["id"] for line in _removed(folder / "trusting")),
        "ours, min_jaccard 0.7": _flagged(line["id"] for line in _removed(folder / "verified")),
    }
    rows = []
    for low, high in pairwise(_BANDS):
        band = (low <= truth) & (truth < high)
        shares = [f"{100 * values[band].mean():.1f}" for values in found.values()]
        rows.append([f"{low:.1f} to {high:.1f}", f"{band.sum():,}", *shares])
    alike = truth >= config.min_jaccard
    recall = [f"{100 * values[alike].sum() / alike.sum():.1f}" for values in found.values()]
    precision = [f"{100 * values[alike].sum() / values.sum():.1f}" for values in found.values()]
    rows.append(["recall of 0.7 and more", f"{alike.sum():,}", *recall])
    rows.append(["precision for 0.7 and more", "", *precision])
    write_table(
        "data_recall",
        "python -m benchmarks.data recall",
        ["Jaccard similarity", "pairs", *(f"{label}, %" for label in found)],
        rows,
        f"{_PAIRS:,} planted pairs, and the share of them that was found. Theory: the mean of "
        "1 - (1 - s^8)^14. datatrove's stages have our words.",
    )


def _look_at_answers(folder: Path, path: str) -> None:
    records = open_source(Jsonl(kind="jsonl", path=path, text="answer"))
    texts = [record.text for record in records if isinstance(record, Record)]
    documents = [Document("medquad", row, text) for row, text in enumerate(texts)]
    shards = write_shards(folder / "answers", [documents])
    counts = _remove(folder / "medquad", shards, DedupConfig())
    with (folder / "medquad/clusters.jsonl").open(encoding="utf-8") as file:
        largest = [json.loads(line) for line in file][:3]
    near = sorted(
        (line for line in _removed(folder / "medquad") if line["kind"] == "near"),
        key=lambda line: (line["similarity"], line["id"]),
    )
    examples = [near[0], near[len(near) // 2], near[-1]]
    rows = [
        [f"{c['documents']} documents", _cell(c["kept"]["text"]), _cell(c["members"][-1]["text"])]
        for c in largest
    ]
    rows += [
        [f"{line['similarity']:.2f}", _cell(line["kept_text"]), _cell(line["text"])]
        for line in examples
    ]
    write_table(
        "data_recall_medquad",
        "MEDQUAD=medquad.jsonl.gz python -m benchmarks.data recall",
        ["cluster, or similarity", "kept begins", "removed begins"],
        rows,
        f"{len(documents):,} answers: {counts.exact:,} exact copies and {counts.near:,} "
        f"near-duplicates removed, {counts.clusters:,} clusters with different texts.",
    )


def _cell(text: str) -> str:
    return " ".join(text.split())[:100].replace("|", "/") + " …"
