"""Shards into a part per source."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_core.data.indexed import token_dtype
from megatron_core.data.tokenization.check import CheckedEncoder
from megatron_core.data.tokenization.lines import read_batches
from megatron_core.data.tokenization.parts import Part, PartWriter
from megatron_core.data.tokenizer import Tokenizer, open_encoder


@dataclass(frozen=True)
class ShardsJob:
    """Shards to tokenize, each with the folder of its parts.

    A task has several where they are small: to open a tokenizer takes about a second, and an
    encoder is fast once it has seen the usual words.
    """

    shards: list[tuple[Path, Path]]
    tokenizer: Path
    encoder: str
    check_every: int
    append_end_of_document: bool
    parse_special_tokens: bool


def tokenize_shards(job: ShardsJob) -> list[list[Part]]:
    """Write the part of each source in each shard.

    Raises:
        CorpusError: a line is no document, or the encoder is not exact.
    """
    tokenizer = Tokenizer.load(job.tokenizer, parse_special_tokens=job.parse_special_tokens)
    encoder = open_encoder(tokenizer, job.encoder)
    dtype = token_dtype(tokenizer.vocabulary_size)
    end = tokenizer.end_of_document if job.append_end_of_document else None
    done = []
    for shard, parts in job.shards:
        checked = CheckedEncoder(encoder, tokenizer.reference, shard, job.check_every)
        done.append(_tokenize(shard, parts, checked, end, dtype))
    return done


def _tokenize(
    shard: Path, parts: Path, encoder: CheckedEncoder, end: int | None, dtype: np.dtype[Any]
) -> list[Part]:
    writers: dict[str, PartWriter] = {}
    with ExitStack() as stack:
        for batch in read_batches(shard):
            ids, lengths = encoder.encode(batch)
            bounds = np.concatenate([[0], np.cumsum(lengths)])
            first = 0
            for source, run in groupby(batch.sources):
                last = first + sum(1 for _ in run)
                if source not in writers:
                    part = PartWriter(source, parts / source, dtype)
                    writers[source] = stack.enter_context(part)
                full = lengths[first:last] > 0
                kept = lengths[first:last][full]
                tokens = framed(ids[bounds[first] : bounds[last]], kept, end, dtype)
                rows = batch.rows[first:last][full]
                writers[source].write(rows, tokens, kept + (end is not None))
                writers[source].drop(int((~full).sum()))
                first = last
        return [writer.finish() for writer in writers.values()]


def framed(
    ids: NDArray[np.uint32], lengths: NDArray[np.int64], end: int | None, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """The tokens of documents of ``lengths`` end to end, each followed by ``end`` if there is one.

    The result is ``[tokens]`` or ``[tokens + documents]`` of ``dtype``, which every id fits.
    """
    if end is None:
        return ids.astype(dtype)
    tokens = np.empty(len(ids) + len(lengths), dtype)
    ends = np.cumsum(lengths + 1) - 1
    inside = np.ones(len(tokens), np.bool_)
    inside[ends] = False
    tokens[inside] = ids
    tokens[ends] = end
    return tokens
