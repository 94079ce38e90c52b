"""The corpus without duplicates: the passes in their order."""

from __future__ import annotations

import heapq
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from megatron_core.config import DedupConfig
from megatron_core.data.dedup.candidates import find_candidates
from megatron_core.data.dedup.clusters import join_documents
from megatron_core.data.dedup.corpus import Corpus, load, within
from megatron_core.data.dedup.signatures import sign_shard
from megatron_core.data.dedup.similarity import compare_candidates
from megatron_core.data.dedup.survivors import Removed, choose_survivors
from megatron_core.data.dedup.texts import keep_texts
from megatron_core.data.documents import list_shards, to_line
from megatron_core.data.runs import map_shards
from megatron_core.data.tasks import Tasks
from megatron_core.errors import CorpusError


@dataclass(frozen=True)
class DedupCounts:
    """Documents kept and removed; ``clusters`` counts the groups of near-duplicates."""

    documents: int
    characters: int
    exact: int
    near: int
    clusters: int
    by_source: dict[str, int]


def remove_duplicates(
    documents: Path, output: Path, config: DedupConfig, tasks: Tasks
) -> DedupCounts:
    """Write the corpus without duplicates to ``output/documents``, in shards of the same names, a
    line for each document removed to ``output/duplicates.jsonl``, and the largest clusters to
    ``output/clusters.jsonl``.

    Of documents that belong together the longest is kept, or the one of the highest score; among
    equal ones the one whose source, then row, comes first. Neither shards nor workers change
    which. Documents belong together when their words are the same, when they agree in a bucket
    and are alike, or by way of others.

    No pass has a Python object for each document. In bytes, a task holds at most: `signatures`,
    `60 + 40 · (buckets + 1)` per document of its shard; `candidates`, 100 per document of a
    partition, of which each has about a million; `texts`, 40 per candidate of its shard;
    `similarities` and `survivors`, about 200 MB; `clusters`, 1 per document of the corpus and 64
    per document that has a duplicate; and besides the largest document, and one bucket's largest
    group of different texts. On the disk are `60 + 12 · (buckets + 1)` per document, and 8 for
    each different n-gram of the candidates, until the pass is over.

    Raises:
        CorpusError: the input is empty or unreadable, or a document has no score to rank it by.
    """
    shards = tuple(list_shards(documents))
    folder = tasks.folder / "arrays"  # goes when what the tasks remember goes
    sign = partial(sign_shard, shards=shards, folder=folder, config=config)
    corpus = Corpus(folder, shards, tuple(map_shards(tasks, "signatures", sign, shards)))
    if not corpus.documents:
        raise CorpusError(f"{documents} holds no documents: its shards are empty")
    partitions = range(corpus.partitions)
    _all(tasks.map("candidates", partial(find_candidates, corpus=corpus), partitions))
    keep = partial(keep_texts, corpus=corpus, config=config)
    _all(map_shards(tasks, "texts", keep, shards))
    compare = partial(compare_candidates, corpus=corpus, config=config)
    _all(tasks.map("similarities", compare, partitions))
    (parts,) = tasks.map("clusters", join_documents, [corpus])
    choose = partial(choose_survivors, corpus=corpus, config=config)
    removed = list(tasks.map("survivors", choose, range(parts)))
    write = partial(_write_shard, corpus=corpus, parts=parts, output=output / "documents")
    _all(map_shards(tasks, "documents", write, shards))
    report = partial(_write_lists, corpus=corpus, removed=removed, shown=config.shown_clusters)
    _all(tasks.map("lists", report, [output]))
    by_source = sum((part.by_source for part in removed), Counter[str]())
    exact, near = sum(part.exact for part in removed), sum(part.near for part in removed)
    return DedupCounts(
        documents=corpus.documents - exact - near,
        characters=sum(s.characters for s in corpus.sizes) - sum(r.characters for r in removed),
        exact=exact,
        near=near,
        clusters=sum(part.near_clusters for part in removed),
        by_source=dict(sorted(by_source.items())),
    )


def _all(results: Iterator[None]) -> None:
    for _ in results:
        pass


def _write_shard(shard: int, corpus: Corpus, parts: int, output: Path) -> None:
    """Write the lines of a shard whose documents stay, as they are."""
    first, end = corpus.firsts[shard : shard + 2]
    gone = sorted(
        number
        for part in range(parts)
        for number in within(load(corpus.place("survivors", part), "gone"), first, end).tolist()
    )
    left = iter(gone)
    following = next(left, None)
    output.mkdir(parents=True, exist_ok=True)
    with (output / corpus.shards[shard].name).open("wb") as target:
        for number, line in corpus.lines(shard):
            if number == following:
                following = next(left, None)
            else:
                target.write(line)


def _write_lists(output: Path, corpus: Corpus, removed: list[Removed], shown: int) -> None:
    """Put the parts of ``duplicates.jsonl`` together, and the largest clusters of all."""
    folders = [corpus.place("survivors", part) for part in range(len(removed))]
    with (output / "duplicates.jsonl").open("wb") as target:
        for folder in folders:
            with (folder / "duplicates.jsonl").open("rb") as source:
                shutil.copyfileobj(source, target)
    lines = (line for folder in folders for line in (folder / "clusters.jsonl").open("rb"))
    largest = heapq.nlargest(shown, lines, key=lambda line: orjson.loads(line)["documents"])
    sizes = sum((part.sizes for part in removed), Counter[int]())
    sizes -= Counter(orjson.loads(line)["documents"] for line in largest)
    rest: dict[str, Any] = {
        "not_shown": [{"documents": size, "clusters": sizes[size]} for size in sorted(sizes)]
    }
    with (output / "clusters.jsonl").open("wb") as target:
        target.writelines([*largest, to_line(rest)])
