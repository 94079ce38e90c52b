"""All shards into the datasets of all splits and sources."""

from __future__ import annotations

import logging
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from megatron_core.config import CanariesConfig, TokenizeConfig
from megatron_core.data.canaries import Canaries, plant
from megatron_core.data.documents import list_shards
from megatron_core.data.indexed import IndexedWriter, bin_path, idx_path, rows_path, token_dtype
from megatron_core.data.tasks import Tasks
from megatron_core.data.tokenization.parts import Part, merge
from megatron_core.data.tokenization.shard import ShardsJob, tokenize_shards
from megatron_core.data.tokenizer import Tokenizer, choose_encoder
from megatron_core.errors import CorpusError

SPLITS = ("train", "heldout")

# Of a task, since a process takes a second to begin: bytes of shards, fewer for a slow reference;
# tokens to join.
_SHARD_BYTES = {"reference": 4_000_000, "fast": 256_000_000}
_JOINED_TOKENS = 64_000_000

Item = TypeVar("Item")

logger = logging.getLogger(__name__)


def dataset_prefix(tokenized: Path, split: str, source: str) -> Path:
    """Where the indexed dataset of a split and source lies, without ``.bin`` and ``.idx``."""
    return tokenized / split / f"{source}_text_document"


@dataclass(frozen=True)
class _Planting:
    """Canaries, and with what they are tokenized."""

    canaries: CanariesConfig
    tokenizer: Path
    config: TokenizeConfig
    scratch: Path


@dataclass(frozen=True)
class _Dataset:
    """The parts that make the dataset of one split and source, and what is planted in it."""

    split: str
    source: str
    parts: list[Part]
    prefix: Path
    vocabulary: int
    planting: _Planting | None


def tokenize_documents(
    documents: Path, tokenizer: Path, output: Path, config: TokenizeConfig, tasks: Tasks
) -> dict[str, dict[str, dict[str, int]]]:
    """Tokenize the splits below ``documents`` into indexed datasets below ``output``.

    Documents come in the order of their rows in the source, so that neither shards nor workers
    change a byte; beside each dataset are the rows. A document without tokens is dropped.

    Returns:
        Counts of documents, dropped documents, tokens and bytes, by split and source.

    Raises:
        CorpusError: a split has no shards or no tokens, the tokenizer cannot be opened, the
            encoder is not exact, or there is no source to plant the canaries in.
        MissingExtraError: the encoder that the recipe names is not installed.
    """
    opened = Tokenizer.load(tokenizer, parse_special_tokens=config.parse_special_tokens)
    encoder, why = choose_encoder(opened, config.encoder)
    logger.info("encoding with %s: %s", encoder, why)
    scratch = output / ".parts"
    shards = [
        (shard, scratch / split / shard.stem)
        for split in SPLITS
        for shard in list_shards(documents / split)
    ]
    size = _SHARD_BYTES["reference" if encoder == opened.reference.name else "fast"]
    jobs = [
        ShardsJob(
            some, tokenizer, encoder, config.check_every,
            config.append_end_of_document, config.parse_special_tokens,
        )
        for some in _grouped(shards, [shard.stat().st_size for shard, _ in shards], size)
    ]  # fmt: skip
    # Which shards a task has depends on the encoder, so its name tells these tasks from others.
    done = tasks.map(f"tokenize with {encoder}", tokenize_shards, jobs)
    by_dataset: defaultdict[tuple[str, str], list[Part]] = defaultdict(list)
    for job, found in zip(jobs, done, strict=True):
        for (_, folder), parts in zip(job.shards, found, strict=True):
            for part in parts:
                by_dataset[folder.parent.name, part.source].append(part)
    planting = _planting(tokenizer, output, config)
    datasets = [
        _Dataset(
            split, source, parts, dataset_prefix(output, split, source), opened.vocabulary_size,
            planting if (split, source) == ("train", planting and planting.canaries.source)
            else None,
        )
        for (split, source), parts in sorted(by_dataset.items())
    ]  # fmt: skip
    for split in SPLITS:
        if not any(p.documents for d in datasets if d.split == split for p in d.parts):
            raise CorpusError(f"{documents / split} holds no text: nothing to tokenize")
    _check_planting(planting, datasets)
    counts: dict[str, dict[str, dict[str, int]]] = {split: {} for split in SPLITS}
    tokens = [sum(part.tokens for part in dataset.parts) for dataset in datasets]
    joins = list(_grouped(datasets, tokens, _JOINED_TOKENS))
    for some, joined in zip(joins, tasks.map("join", _join_some, joins), strict=True):
        for dataset, count in zip(some, joined, strict=True):
            counts[dataset.split][dataset.source] = count
    if planting is not None:
        Canaries(planting.canaries).write(output)
    shutil.rmtree(scratch, ignore_errors=True)
    return counts


def _planting(tokenizer: Path, output: Path, config: TokenizeConfig) -> _Planting | None:
    if config.canaries is None:
        return None
    scratch = output / ".parts" / "unplanted"
    return _Planting(config.canaries, tokenizer, config, scratch)


def _check_planting(planting: _Planting | None, datasets: Sequence[_Dataset]) -> None:
    if planting is None or any(
        one.planting is not None and any(part.documents for part in one.parts) for one in datasets
    ):
        return
    raise CorpusError(
        f"source {planting.canaries.source} of tokenize.canaries has no training documents to "
        "plant canaries among: name another in tokenize.canaries.source"
    )


def _grouped(items: Sequence[Item], weights: Sequence[int], weight: int) -> Iterator[list[Item]]:
    """Items that follow one another, so many that they have ``weight`` or are the last."""
    group: list[Item] = []
    total = 0
    for item, one in zip(items, weights, strict=True):
        group.append(item)
        total += one
        if total >= weight:
            yield group
            group, total = [], 0
    if group:
        yield group


def _join_some(datasets: Sequence[_Dataset]) -> list[dict[str, int]]:
    return [_join(dataset) for dataset in datasets]


def _join(dataset: _Dataset) -> dict[str, int]:
    """Merge the parts into one dataset, which is not written when there is no document."""
    documents = sum(part.documents for part in dataset.parts)
    count = {
        "documents": documents,
        "dropped_empty": sum(part.empty for part in dataset.parts),
        "tokens": sum(part.tokens for part in dataset.parts),
        "bytes": 0,
    }
    if not documents:
        return count
    planting = dataset.planting
    prefix = dataset.prefix if planting is None else planting.scratch / dataset.source
    with IndexedWriter(prefix, token_dtype(dataset.vocabulary)) as writer:
        rows = np.lib.format.open_memmap(
            rows_path(prefix), mode="w+", dtype=np.int64, shape=(documents,)
        )
        merge(dataset.parts, writer, rows)
        rows.flush()
    if planting is not None:
        config, special = planting.config, planting.config.parse_special_tokens
        tokenizer = Tokenizer.load(planting.tokenizer, parse_special_tokens=special)
        end = tokenizer.end_of_document if config.append_end_of_document else None
        canaries = Canaries(planting.canaries)
        copies, tokens = plant(canaries, tokenizer, end, prefix, dataset.prefix)
        count["documents"] += copies
        count["tokens"] += tokens
        count["canaries"] = copies
    files = (bin_path(dataset.prefix), idx_path(dataset.prefix))
    return count | {"bytes": sum(path.stat().st_size for path in files)}
