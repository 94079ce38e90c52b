"""What every task that a model is fine-tuned for has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from megatron_core.config import AdapterConfig, ExampleFiles, ModelConfig, SoftPromptConfig
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.tuning.encoding.rows import Rows
from megatron_core.data.tuning.reading import Items
from megatron_core.data.tuning.splits import check_apart, split_by_group
from megatron_core.errors import ReforgeError
from megatron_core.identity import hash_file, merkle_root
from megatron_core.model import HeadSpec, LanguageModel, Share, TaskModel
from megatron_core.parallel.mesh import Mesh
from megatron_core.trainer.assemble import describe
from megatron_core.trainer.examples import Examples

# Of a model or baseline by metric: ``value``, and the ends ``low`` and ``high`` of the 95 %
# interval where there is one.
Scores = dict[str, dict[str, float]]


def nested(flat: Mapping[str, Any]) -> Scores:
    """Scores from ``metric``, ``metric_low`` and ``metric_high``; what is no number is left out."""
    numbers = {name: float(value) for name, value in flat.items() if isinstance(value, int | float)}
    found: Scores = {}
    for name, value in numbers.items():
        metric, _, end = name.rpartition("_")
        if end in ("low", "high") and metric in numbers:
            found[metric][end] = value
        else:
            found[name] = {"value": value}
    return found


@dataclass(frozen=True)
class Place:
    """Where a task is prepared.

    Attributes:
        tokenizer: The folder of the pipeline's tokenizer.
        documents: The artifact of decontaminate, with ``train`` and ``heldout``.
        model: That the training starts with.
    """

    tokenizer: Path
    documents: Path
    model: ModelConfig

    def open_tokenizer(self, *, parse_special_tokens: bool = False) -> Tokenizer:
        """The tokenizer, every token of which the model knows.

        Raises:
            ReforgeError: it has more tokens than the model.
        """
        tokenizer = Tokenizer.load(self.tokenizer, parse_special_tokens=parse_special_tokens)
        if tokenizer.vocabulary_size > self.model.vocabulary:
            raise ReforgeError(
                f"the tokenizer in {self.tokenizer} has {tokenizer.vocabulary_size} tokens, the "
                f"model to fine-tune {self.model.vocabulary}: they do not belong together"
            )
        return tokenizer

    @property
    def framed(self) -> bool:
        """Whether texts stand between [CLS] and [SEP]."""
        return self.model.kind == "encoder"


@dataclass(frozen=True)
class Task:
    """A task that is ready to be trained.

    Attributes:
        train, test: What is trained on, and what is told and scored; without the positions that
            a soft prompt takes.
        make: Builds a share of the model, without values.
        description: What is needed to build the model again.
        metric: The one that counts.
        score: Scores of what the model tells of each test example.
        baselines: Scores of others on the same test examples, by name.
        details: Numbers of examples and classes, and what was left out or cut.
        inputs: Hashes of what was read.
        make_start: Builds a share of the model that training starts with, where that is scored
            too.
        refer: Puts what that model tells of examples into them, where the loss needs it.
        generate: Scores of what the model in a folder generates, on one rank; None for none.
    """

    train: Examples
    test: Examples
    make: Callable[[Share], LanguageModel | TaskModel]
    description: Mapping[str, Any]
    metric: str
    score: Callable[[Sequence[Tensor]], Scores]
    baselines: Callable[[], dict[str, Scores]]
    details: dict[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    make_start: Callable[[Share], LanguageModel | TaskModel] | None = None
    refer: Callable[[Examples, Sequence[Tensor]], Examples] | None = None
    generate: Callable[[Path, Mesh], Scores] | None = None


def prompt_of(adapter: AdapterConfig | None) -> int:
    """Positions that a soft prompt takes of each sequence."""
    return adapter.tokens if isinstance(adapter, SoftPromptConfig) else 0


def examples_of(
    rows: Rows, targets: Tensor, model: ModelConfig, *, by_position: bool = False,
    together: int = 1,
) -> Examples:  # fmt: skip
    """Encoded rows with their targets."""
    types = rows.types if model.token_types > 1 else None
    return Examples(
        rows.tokens, rows.documents, targets, by_position=by_position, types=types,
        together=together,
    )  # fmt: skip


class Grouped(Protocol):
    """An example that belongs with others."""

    @property
    def id(self) -> str: ...

    @property
    def group(self) -> str | None: ...


Item = TypeVar("Item", bound=Grouped)


def total(*counts: Mapping[str, int]) -> dict[str, int]:
    """What was done how often, over several readings and encodings, in the order of the names."""
    return dict(sorted(sum((Counter(one) for one in counts), Counter[str]()).items()))


def described(
    model: ModelConfig, head: HeadSpec, classes: Sequence[str] | None = None
) -> dict[str, Any]:
    """What is needed to build the model of a task again."""
    named = {} if classes is None else {"classes": list(classes)}
    return {**describe(model), "kind": "task", "head": head.described(), **named}


def groups_of(examples: Sequence[Grouped]) -> list[str]:
    """What each belongs with: its group, or nothing else."""
    return [one.group or one.id for one in examples]


@dataclass(frozen=True)
class Split:
    """Examples to train on and to score.

    Attributes:
        counts: What was changed or left out while reading, by what was done.
        inputs: Hashes of the files.
    """

    train: list[Any]
    test: list[Any]
    counts: dict[str, int]
    inputs: dict[str, str]


def read_split(files: ExampleFiles, read: Callable[[Path], Items[Item]], seed: int) -> Split:
    """The examples of the files, no group of which is on both sides.

    Raises:
        CorpusError: a file is missing or wrong, or a group is on both sides.
    """
    paths = {"train": Path(files.train)}
    if files.test is not None:
        paths["test"] = Path(files.test)
    found = {name: read(path) for name, path in paths.items()}
    inputs = {f"{name} examples": _hash(path) for name, path in paths.items()}
    counts = total(*(items.counts for items in found.values()))
    train = list(found["train"].items)
    if "test" in found:
        test = list(found["test"].items)
        if files.group is not None:
            check_apart({name: [one.group for one in of.items] for name, of in found.items()})
        return Split(train, test, counts, inputs)
    shares = {"train": 1 - files.heldout, "test": files.heldout}
    parts = split_by_group(groups_of(train), shares, seed)
    sides = {
        name: [one for one, part in zip(train, parts, strict=True) if part == name]
        for name in shares
    }
    return Split(sides["train"], sides["test"], counts, inputs)


def _hash(path: Path) -> str:
    """Over a file's bytes, or over those of all files of a folder with their names."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return merkle_root({file.relative_to(path).as_posix(): hash_file(file) for file in files})
    return hash_file(path)
