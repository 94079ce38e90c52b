"""The corpus cut in two: the passes in their order."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from megatron_core.config import DecontaminateConfig
from megatron_core.data.decontamination.evaluation_sets import (
    EvaluationSets,
    write_index,
    write_ngrams,
)
from megatron_core.data.decontamination.heldout import has_group, is_heldout
from megatron_core.data.documents import list_shards, read_shard, to_line
from megatron_core.data.runs import map_shards
from megatron_core.data.sources import Broken, open_source
from megatron_core.data.tasks import Tasks
from megatron_core.errors import CorpusError

HELDOUT = "heldout"


@dataclass(frozen=True)
class DecontaminationCounts:
    """Documents and characters of each split; documents removed by the set they overlap with."""

    train: int
    train_characters: int
    heldout: int
    heldout_characters: int
    removed: dict[str, int]


class _Split(NamedTuple):
    """Documents and characters written; documents that have a group; removed ones by the set."""

    documents: int
    characters: int
    grouped: int
    removed: Counter[str]


def decontaminate_documents(
    documents: Path, output: Path, config: DecontaminateConfig, tasks: Tasks
) -> DecontaminationCounts:
    """Cut the corpus into ``output/train`` and ``output/heldout``, in shards of the same names,
    and write what was removed from training to ``output/removed.jsonl``.

    A document is removed when more than ``config.max_overlap`` of its word n-grams stand in the
    held-out texts, or in one of ``config.against``; or when it has more than
    ``config.max_covered`` of the n-grams of one of their texts. A text shorter than an n-gram is
    one n-gram.

    In bytes, the task `index` holds about 64 per n-gram of the evaluation texts. On the disk
    remain 16 to 20, which the tasks of `train` map into memory and share; besides these a task
    holds one document.

    Raises:
        CorpusError: the corpus or a set is empty or unreadable, a split would be empty, or no
            document has the key to hold out by.
    """
    shards = list_shards(documents)
    folder = tasks.folder / "arrays"  # goes when what the tasks remember goes
    names = sorted(config.against)
    write = partial(_write_heldout, shards=shards, output=output, folder=folder, config=config)
    heldout = list(map_shards(tasks, HELDOUT, write, shards))
    _check_heldout(heldout, documents, config)
    read = partial(_read_set, folder=folder, config=config)
    list(tasks.map("against", read, names))
    list(tasks.map("index", partial(_write_index, shards=len(shards), names=names), [folder]))
    drop = partial(_write_train, shards=shards, output=output, folder=folder, config=config)
    train = list(map_shards(tasks, "train", drop, shards))
    removed = sum((split.removed for split in train), Counter[str]())
    if not sum(split.documents for split in train):
        raise CorpusError(
            f"no document of {documents} is left for training: {removed.total()} overlap with "
            "evaluation sets and the others are held out; check decontaminate.heldout, "
            "decontaminate.max_overlap and decontaminate.max_covered"
        )
    gather = partial(_gather_removed, folder=folder, output=output)
    list(tasks.map("removed", gather, [len(shards)]))
    return DecontaminationCounts(
        train=sum(split.documents for split in train),
        train_characters=sum(split.characters for split in train),
        heldout=sum(split.documents for split in heldout),
        heldout_characters=sum(split.characters for split in heldout),
        removed=dict(sorted(removed.items())),
    )


def _check_heldout(heldout: Sequence[_Split], documents: Path, config: DecontaminateConfig) -> None:
    if not sum(split.documents for split in heldout):
        raise CorpusError(
            f"no document of {documents} is held out by decontaminate.heldout = {config.heldout}: "
            "raise it or change decontaminate.seed"
        )
    if config.heldout_by is not None and not sum(split.grouped for split in heldout):
        raise CorpusError(
            f"no document of {documents} has decontaminate.heldout_by = {config.heldout_by!r} in "
            "its metadata: name a key that ingest keeps, or hold out by id with null"
        )


def _write_heldout(
    number: int, shards: Sequence[Path], output: Path, folder: Path, config: DecontaminateConfig
) -> _Split:
    """Write the documents of a shard that are held out, and their n-grams."""
    target = output / HELDOUT / shards[number].name
    target.parent.mkdir(parents=True, exist_ok=True)
    count = characters = grouped = 0

    def texts() -> Iterator[tuple[str, int, str]]:
        nonlocal count, characters, grouped
        with target.open("wb") as file:
            for document in read_shard(shards[number]):
                grouped += has_group(document, config)
                if is_heldout(document, config):
                    file.write(document.to_line())
                    count += 1
                    characters += len(document.text)
                    yield document.source, document.row, document.text

    write_ngrams(folder / HELDOUT / f"{number:06d}.npz", texts(), config.ngram)
    return _Split(count, characters, grouped, Counter())


def _read_set(name: str, folder: Path, config: DecontaminateConfig) -> None:
    """Write the n-grams of one evaluation set."""

    def texts() -> Iterator[tuple[str, int, str]]:
        for row, record in enumerate(open_source(config.against[name])):
            if isinstance(record, Broken):
                raise CorpusError(f"decontaminate.against.{name}: {record}; mend the file")
            yield name, row, record.text

    if not write_ngrams(folder / "against" / f"{name}.npz", texts(), config.ngram):
        raise CorpusError(f"decontaminate.against.{name} has no records")


def _write_index(folder: Path, shards: int, names: Sequence[str]) -> None:
    heldout = [folder / HELDOUT / f"{number:06d}.npz" for number in range(shards)]
    sets = [heldout, *([folder / "against" / f"{name}.npz"] for name in names)]
    write_index(folder / "index", sets)


def _write_train(
    number: int, shards: Sequence[Path], output: Path, folder: Path, config: DecontaminateConfig
) -> _Split:
    """Write the documents of a shard to train on, and a line for each that is removed."""
    sets = EvaluationSets(folder / "index", [HELDOUT, *sorted(config.against)], config.ngram)
    target = output / "train" / shards[number].name
    dropped = folder / "removed" / f"{number:06d}.jsonl"
    for path in (target, dropped):
        path.parent.mkdir(parents=True, exist_ok=True)
    count = characters = 0
    removed: Counter[str] = Counter()
    with target.open("wb") as train, dropped.open("wb") as lines:
        for document in read_shard(shards[number]):
            if is_heldout(document, config):
                continue
            overlap = sets.overlap(document.text, config.max_overlap, config.max_covered)
            if overlap is None:
                train.write(document.to_line())
                count += 1
                characters += len(document.text)
            else:
                lines.write(to_line({"id": document.id, **asdict(overlap)}))
                removed[overlap.against] += 1
    return _Split(count, characters, 0, removed)


def _gather_removed(shards: int, folder: Path, output: Path) -> None:
    with (output / "removed.jsonl").open("wb") as target:
        for number in range(shards):
            with (folder / "removed" / f"{number:06d}.jsonl").open("rb") as lines:
                shutil.copyfileobj(lines, target)
