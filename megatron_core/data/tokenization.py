"""Documents into Megatron indexed datasets, one per split and source."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_core.config import TokenizeConfig
from megatron_core.data.documents import list_shards, read_shard
from megatron_core.data.indexed import (
    IndexedDataset,
    IndexedWriter,
    bin_path,
    idx_path,
    token_dtype,
)
from megatron_core.data.tasks import Tasks
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import CorpusError

SPLITS = ("train", "heldout")


def dataset_prefix(tokenized: Path, split: str, source: str) -> Path:
    """Where the indexed dataset of a split and source lies, without ``.bin`` and ``.idx``."""
    return tokenized / split / f"{source}_text_document"


@dataclass(frozen=True)
class _Job:
    """A shard to tokenize into ``parts``, on its own."""

    shard: Path
    parts: Path
    tokenizer: Path
    append_end_of_document: bool


@dataclass(frozen=True)
class _Part:
    """The documents of one source in one shard; ``rows`` says which they are."""

    source: str
    prefix: Path
    rows: list[int]
    empty: int


def tokenize_documents(
    documents: Path, tokenizer: Path, output: Path, config: TokenizeConfig, tasks: Tasks
) -> dict[str, dict[str, dict[str, int]]]:
    """Tokenize the splits below ``documents`` into indexed datasets below ``output``.

    Documents come in the order of their rows in the source, so that neither shards nor workers
    change a byte. A document without tokens is dropped.

    Returns:
        Counts of documents, dropped documents, tokens and bytes, by split and source.

    Raises:
        CorpusError: a split has no shards or no tokens, or the tokenizer cannot be opened.
    """
    dtype = token_dtype(Tokenizer.load(tokenizer).vocabulary_size)
    scratch = output / ".parts"
    jobs = [
        _Job(shard, scratch / split / shard.stem, tokenizer, config.append_end_of_document)
        for split in SPLITS
        for shard in list_shards(documents / split)
    ]
    done = tasks.map("tokenize", _tokenize_shard, jobs)
    parts = dict(zip((job.parts for job in jobs), done, strict=True))
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for split in SPLITS:
        by_source: defaultdict[str, list[_Part]] = defaultdict(list)
        for folder, found in parts.items():
            for part in found if folder.parent.name == split else ():
                by_source[part.source].append(part)
        counts[split] = {
            source: _join(by_source[source], dataset_prefix(output, split, source), dtype)
            for source in sorted(by_source)
        }
        if not any(count["documents"] for count in counts[split].values()):
            raise CorpusError(f"{documents / split} holds no text: nothing to tokenize")
    shutil.rmtree(scratch)
    return counts


def _tokenize_shard(job: _Job) -> list[_Part]:
    """Write an indexed dataset per source of the shard."""
    tokenizer = Tokenizer.load(job.tokenizer)
    dtype = token_dtype(tokenizer.vocabulary_size)
    end = [tokenizer.end_of_document] if job.append_end_of_document else []
    writers: dict[str, IndexedWriter] = {}
    rows: defaultdict[str, list[int]] = defaultdict(list)
    empty: defaultdict[str, int] = defaultdict(int)
    with ExitStack() as stack:
        for document, ids in tokenizer.encode_documents(read_shard(job.shard)):
            source = document.source
            if source not in writers:
                writers[source] = stack.enter_context(IndexedWriter(job.parts / source, dtype))
            if ids:
                writers[source].write(ids + end)
                rows[source].append(document.row)
            else:
                empty[source] += 1
    return [_Part(name, job.parts / name, rows[name], empty[name]) for name in writers]


def _join(parts: Sequence[_Part], prefix: Path, dtype: np.dtype[Any]) -> dict[str, int]:
    """Merge the parts by row into one dataset, which is not written when there is no document."""
    rows = np.concatenate([np.array(part.rows, dtype=np.int64) for part in parts])
    empty = sum(part.empty for part in parts)
    if not len(rows):
        return {"documents": 0, "dropped_empty": empty, "tokens": 0, "bytes": 0}
    datasets = [IndexedDataset(part.prefix) for part in parts]
    which = np.repeat(np.arange(len(parts)), [len(dataset) for dataset in datasets])
    number = np.concatenate([np.arange(len(dataset)) for dataset in datasets])
    with IndexedWriter(prefix, dtype) as writer:
        for at in np.argsort(rows, kind="stable"):
            writer.write(datasets[which[at]][int(number[at])])
    return {
        "documents": len(rows),
        "dropped_empty": empty,
        "tokens": sum(len(dataset.tokens) for dataset in datasets),
        "bytes": sum(path(prefix).stat().st_size for path in (bin_path, idx_path)),
    }
