"""Made-up secrets among the training documents, and the random ones they are compared with.

After Carlini et al. (2019), "The Secret Sharer". Everything is a pure function of the recipe: the
secrets are the first of a permutation of all there are, so no two are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_core.config import CanariesConfig
from megatron_core.data.datasets.order import permute
from megatron_core.data.indexed import IndexedDataset, IndexedWriter, rows_path
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import IntegrityError
from megatron_core.files import write_json

_FILE = "canaries.json"
_BLOCK = 1 << 16  # documents copied at a time


@dataclass(frozen=True)
class Canary:
    """A text with a made-up secret, and how often it stands in the training split."""

    text: str
    copies: int


class Canaries:
    """The canaries of a recipe.

    Number n of :meth:`planted` has the row ``-1 - n`` of its source.
    """

    def __init__(self, config: CanariesConfig) -> None:
        self.config = config

    def planted(self) -> list[Canary]:
        """``config.count`` of each number of copies."""
        copies = [number for number in self.config.copies for _ in range(self.config.count)]
        return [Canary(self._text(n), number) for n, number in enumerate(copies)]

    def controls(self) -> list[Canary]:
        """As many as a group has, never planted."""
        first = len(self.config.copies) * self.config.count
        return [Canary(self._text(first + n), 0) for n in range(self.config.count)]

    def alternatives(self, count: int) -> list[str]:
        """Texts with ``count`` random secrets, or all that are neither canaries nor controls."""
        left = self.config.space - self.config.taken
        return [self._text(self.config.taken + n) for n in range(min(count, left))]

    def places(self, documents: int) -> list[tuple[int, int]]:
        """Every copy as ``(document, canary)``, in order: the one it stands before, and its number.

        Args:
            documents: Of the source; a copy may stand before each of them and behind the last.
        """
        return sorted(
            (self._draw(f"place:{number}:{copy}", documents + 1), number)
            for number, canary in enumerate(self.planted())
            for copy in range(canary.copies)
        )

    def write(self, folder: Path) -> None:
        """Leave them in ``folder`` for the stages that come after."""
        told = {
            **self.config.model_dump(mode="json"),
            "planted": [{"text": one.text, "copies": one.copies} for one in self.planted()],
            "controls": [one.text for one in self.controls()],
        }
        write_json(folder / _FILE, told)

    @classmethod
    def read(cls, folder: Path) -> Canaries | None:
        """Those that :meth:`write` left in ``folder``; None if there are none.

        Raises:
            IntegrityError: the file is damaged.
        """
        path = folder / _FILE
        if not path.exists():
            return None
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            known = {name: told[name] for name in CanariesConfig.model_fields}
            canaries = cls(CanariesConfig.model_validate(known))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{path} is damaged: run `reforge tokenize` again") from error
        if [one["text"] for one in told["planted"]] != [one.text for one in canaries.planted()]:
            raise IntegrityError(f"{path} was changed: run `reforge tokenize` again")
        return canaries

    def _text(self, number: int) -> str:
        """The text with secret ``number`` of all."""
        config = self.config
        secret = permute(number, config.space, f"{config.seed}:canaries")
        digits = iter(str(secret).zfill(config.digits))
        return "".join(next(digits) if letter == "#" else letter for letter in config.format)

    def _draw(self, what: str, size: int) -> int:
        digest = hashlib.sha256(f"{self.config.seed}:canaries:{what}".encode()).digest()
        return int.from_bytes(digest[:8], "big") * size >> 64


def plant(
    canaries: Canaries, tokenizer: Tokenizer, end: int | None, source: Path, target: Path
) -> tuple[int, int]:
    """Write the dataset at ``source``, with the canaries in their places, to ``target``.

    Args:
        canaries: What to plant.
        tokenizer: Encodes them as it does documents.
        end: Token behind each document, if there is one.
        source: Prefix of a dataset with its rows.
        target: Prefix of the dataset to write; its rows are int64, negative for canaries.

    Returns:
        How many documents and tokens were planted.

    Raises:
        CorpusError: a token does not fit the dataset.
    """
    dataset, rows = IndexedDataset(source), np.load(rows_path(source), mmap_mode="r")
    texts = [tokenizer.encode(one.text) for one in canaries.planted()]
    tokens = [np.array(text + ([] if end is None else [end])) for text in texts]
    places = canaries.places(len(dataset))
    at = done = 0
    with IndexedWriter(target, dataset.dtype) as writer:
        written = np.lib.format.open_memmap(
            rows_path(target), mode="w+", dtype=np.int64, shape=(len(dataset) + len(places),)
        )
        for place, number in [*places, (len(dataset), None)]:
            for start, stop in _blocks(done, place):
                first = int(dataset.offsets[start]) // dataset.dtype.itemsize
                lengths = dataset.lengths[start:stop]
                some = dataset.tokens[first : first + int(lengths.sum(dtype=np.int64))]
                writer.write_documents(some, lengths)
                written[at : at + stop - start] = rows[start:stop]
                at += stop - start
            done = place
            if number is not None:
                writer.write(tokens[number])
                written[at] = -1 - number
                at += 1
        written.flush()
    return len(places), sum(len(tokens[number]) for _, number in places)


def _blocks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, _BLOCK):
        yield first, min(first + _BLOCK, stop)


def canary_of_row(folder: Path, row: int) -> Canary:
    """The canary that stands as ``row``, below 0, among the documents of its source.

    Raises:
        IntegrityError: ``folder`` has no such canary.
    """
    canaries = Canaries.read(folder)
    planted = [] if canaries is None else canaries.planted()
    if not 0 <= -1 - row < len(planted):
        raise IntegrityError(f"{folder} has no canary of row {row}: run `reforge tokenize` again")
    return planted[-1 - row]
