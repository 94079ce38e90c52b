"""The documents of a shard as the tokenizer needs them: many at once, without their metadata."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from megatron_core.data.documents import read_shard
from megatron_core.errors import CorpusError

_CHUNK = 1 << 21  # bytes: large enough that a call costs little, and no larger


class _Line(msgspec.Struct, gc=False):
    row: int
    source: str
    text: str


@dataclass(frozen=True)
class Batch:
    """Documents that follow one another in a shard.

    Attributes:
        rows: int64 ``[documents]``, the row of each in its source.
    """

    rows: NDArray[np.int64]
    sources: list[str]
    texts: list[str]


def read_batches(shard: Path) -> Iterator[Batch]:
    """The documents of ``shard``, about two megabytes at a time.

    Raises:
        CorpusError: the file cannot be read or a line is no document; names file and line.
    """
    decoder = msgspec.json.Decoder(_Line)
    try:
        with shard.open("rb") as file:
            while chunk := file.read(_CHUNK):
                lines = decoder.decode_lines(chunk + file.readline())
                yield Batch(
                    np.fromiter((line.row for line in lines), np.int64, len(lines)),
                    [line.source for line in lines],
                    [line.text for line in lines],
                )
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        for _ in read_shard(shard):  # slower, but it knows which line is wrong
            pass
        raise CorpusError(f"{shard}: {error}; run the stage that makes it again") from error
    except OSError as error:
        raise CorpusError(f"{shard} cannot be read: {error.strerror}") from error
