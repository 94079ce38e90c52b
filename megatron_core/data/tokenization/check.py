"""An encoder that is checked against the reference while it works."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_core.data.tokenization.lines import Batch
from megatron_core.data.tokenizer import Encoder
from megatron_core.errors import CorpusError

_FIRST_DOCUMENTS = 4  # of each shard, or fewer when they are long: the reference is slow
_FIRST_CHARACTERS = 1 << 13
_LONGEST = 1 << 20  # characters of a document that is checked
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class CheckedEncoder:
    """Encodes with ``encoder``, and a sample of the documents with ``reference`` too.

    The sample is the first documents of the shard and one in ``every`` of the others, chosen by a
    hash of the row.
    """

    def __init__(self, encoder: Encoder, reference: Encoder, shard: Path, every: int) -> None:
        self._encoder, self._reference = encoder, reference
        self._shard, self._every = shard, every
        self._documents = self._characters = 0

    def encode(self, batch: Batch) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Ids of all documents end to end, and the length of each.

        Raises:
            CorpusError: the encoder gives other ids than the reference.
        """
        ids, lengths = self._encoder.encode(batch.texts)
        if self._encoder is self._reference:
            return ids, lengths
        ends = np.cumsum(lengths)
        chosen = self._chosen(batch)
        expected, counts = self._reference.encode([batch.texts[i] for i in chosen])
        known = np.split(expected, np.cumsum(counts)[:-1])
        for number, theirs in zip(chosen, known, strict=bool(chosen)):
            ours = ids[ends[number] - lengths[number] : ends[number]]
            if not np.array_equal(ours, theirs):
                raise CorpusError(
                    f"{self._encoder.name} encodes {batch.sources[number]}/{batch.rows[number]} of "
                    f"{self._shard} to other tokens than {self._reference.name}: nothing it wrote "
                    "can be trusted; set tokenize.encoder to reference"
                )
        return ids, lengths

    def _chosen(self, batch: Batch) -> list[int]:
        hashes = batch.rows.astype(np.uint64) * _GOLDEN >> np.uint64(32)
        chosen = set(np.flatnonzero(hashes % np.uint64(self._every) == 0).tolist())
        for number, text in enumerate(batch.texts):
            if self._documents >= _FIRST_DOCUMENTS or self._characters >= _FIRST_CHARACTERS:
                break
            chosen.add(number)
            self._documents += 1
            self._characters += len(text)
        return sorted(number for number in chosen if len(batch.texts[number]) <= _LONGEST)
