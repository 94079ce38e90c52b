"""The checksums of every tensor at every step, kept to find where two runs part.

A fingerprint is the wrapping int64 sum of a grid shard's raw fp32 bits, read as int32. Integer
sums are associative, so it is the same on every layout, and it costs one pass. Losses would not
do: they can print the same while weights differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from megatron_core.errors import IntegrityError
from megatron_core.files import write_json

Kind = Literal["weights", "gradient"]

_FORMAT = 1
_NUMBER = np.dtype("<i8")
_ROWS_AT_ONCE = 256


class _Header(BaseModel):
    """``fingerprints.json``: what the columns of ``fingerprints.bin`` are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    names: list[str]


@dataclass(frozen=True)
class Fingerprints:
    """The log of a run.

    Attributes:
        names: Grid shards, as ``layers.0.attention.query.weight/1``.
        steps: ``int64 [rows]``, increasing.
        weights: ``int64 [rows, names]``, of the weights that the step began with.
        gradients: ``int64 [rows, names]``, of the gradients that the step computed from them.
    """

    names: tuple[str, ...]
    steps: NDArray[np.int64]
    weights: NDArray[np.int64]
    gradients: NDArray[np.int64]


@dataclass(frozen=True)
class Divergence:
    """The first fingerprint that differs between two runs.

    Attributes:
        step: The first step, among those that both recorded, at which something differs.
        name: The first grid shard that differs there, in the order of the log.
        kind: Whether its weights differed before the step, or only its gradient in it.
        shards: How many grid shards differ there in this kind.
        agreed: The last recorded step before, at which all was equal; None when there is none.
    """

    step: int
    name: str
    kind: Kind
    shards: int
    agreed: int | None


class FingerprintLog:
    """Writes the log in the folder of a run; for one process only, the first rank.

    ``fingerprints.json`` names the grid shards; ``fingerprints.bin`` holds rows of little-endian
    int64: the step, then each shard's gradient, then each shard's weights before the update.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """Continue the log in ``folder``, or begin one.

        Raises:
            IntegrityError: there is one of other shards.
        """
        self._path = _numbers(folder)
        self._columns = len(names)
        header = _header(folder)
        if header.exists():
            if _read_header(folder).names != list(names):
                raise IntegrityError(
                    f"{header} is of other tensors than this run's: it was written by another "
                    f"version; delete it and {self._path.name} to begin a new log"
                )
        else:
            self._path.unlink(missing_ok=True)  # rows that nothing describes
            write_json(header, {"format": _FORMAT, "names": list(names)})

    def append(self, step: int, gradients: ArrayLike, weights: ArrayLike) -> None:
        """Record ``step``: ``int64 [names]`` of each kind, the weights before the update."""
        parts = [np.asarray(part, _NUMBER) for part in ([step], gradients, weights)]
        if [part.shape for part in parts[1:]] != [(self._columns,)] * 2:
            raise ValueError(f"{self._columns} checksums of each kind are needed")
        with self._path.open("ab") as file:
            file.write(np.concatenate(parts).tobytes())

    def cut(self, up_to: int) -> None:
        """Forget the steps after ``up_to``, which will be taken again, and a torn last row."""
        if not self._path.exists():
            return
        width = 1 + 2 * self._columns
        kept = _whole_rows(_read_rows(self._path, width), up_to)
        os.truncate(self._path, kept * width * _NUMBER.itemsize)


def has_fingerprints(folder: Path) -> bool:
    """Whether ``folder`` holds a log."""
    return _header(folder).exists()


def read_fingerprints(folder: Path) -> Fingerprints:
    """The log in ``folder``, mapped rather than loaded; a torn last row is left out.

    Raises:
        IntegrityError: there is none, or its description is torn or altered.
    """
    names = tuple(_read_header(folder).names)
    rows = _read_rows(_numbers(folder), 1 + 2 * len(names))
    rows = rows[: _whole_rows(rows, None)]
    return Fingerprints(
        names, rows[:, 0], rows[:, 1 + len(names) :], rows[:, 1 : 1 + len(names)]
    )  # fmt: skip


def first_divergence(ours: Fingerprints, theirs: Fingerprints) -> Divergence | str | None:
    """Where two logs differ first: by step, then what the step began with, then what it computed.

    Returns:
        The place, ``None`` when all steps that both recorded agree, or a sentence when the two
        cannot be compared.
    """
    if ours.names != theirs.names:
        odd = sorted(set(ours.names) ^ set(theirs.names))
        return f"they log other tensors: {', '.join(odd[:5])}" if odd else "their orders differ"
    steps, rows, others = np.intersect1d(
        ours.steps, theirs.steps, assume_unique=True, return_indices=True
    )
    if not len(steps):
        return "they recorded no step in common"
    for part in _parts(len(steps)):
        kinds: dict[Kind, NDArray[np.bool_]] = {
            "weights": ours.weights[rows[part]] != theirs.weights[others[part]],
            "gradient": ours.gradients[rows[part]] != theirs.gradients[others[part]],
        }
        differing = np.flatnonzero(kinds["weights"].any(axis=1) | kinds["gradient"].any(axis=1))
        if not len(differing):
            continue
        row = int(differing[0])
        # The weights came before the gradient: where both differ, the cause lies a step back.
        kind: Kind = "weights" if kinds["weights"][row].any() else "gradient"
        columns = np.flatnonzero(kinds[kind][row])
        place = part.start + row
        return Divergence(
            step=int(steps[place]),
            name=ours.names[int(columns[0])],
            kind=kind,
            shards=len(columns),
            agreed=int(steps[place - 1]) if place else None,
        )
    return None


def _parts(rows: int) -> Iterator[slice]:
    """A long log is compared piece by piece, so that it needs no memory of its size."""
    for start in range(0, rows, _ROWS_AT_ONCE):
        yield slice(start, start + _ROWS_AT_ONCE)


def _header(folder: Path) -> Path:
    return folder / "fingerprints.json"


def _numbers(folder: Path) -> Path:
    return folder / "fingerprints.bin"


def _read_header(folder: Path) -> _Header:
    path = _header(folder)
    try:
        return _Header.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise IntegrityError(
            f"{folder} has no fingerprints: train with fingerprint_every above 0"
        ) from error
    except (OSError, ValidationError) as error:
        raise IntegrityError(
            f"{path} is no description of fingerprints: delete it and fingerprints.bin"
        ) from error


def _read_rows(path: Path, width: int) -> NDArray[np.int64]:
    """Whole rows of ``width`` numbers, mapped from ``path``."""
    rows = path.stat().st_size // (width * _NUMBER.itemsize) if path.exists() else 0
    if not rows:
        return np.empty((0, width), _NUMBER)
    return np.memmap(path, _NUMBER, mode="r", shape=(rows, width))


def _whole_rows(rows: NDArray[np.int64], up_to: int | None) -> int:
    """How many leading rows are good: steps increase, as they do not where a disk lost power."""
    steps = rows[:, 0]
    good = np.diff(steps, prepend=0) > 0
    if up_to is not None:
        good &= steps <= up_to
    return len(steps) if good.all() else int(np.argmin(good))
